import json

import pyarrow.parquet as pq
import pytest

from jobs.simulate import main, simulation_settings

SMALL = ["--users", "40", "--items", "100", "--days", "3"]


def test_the_command_writes_a_log_and_says_that_it_is_simulated(tmp_path, capsys):
    out = tmp_path / "out"
    main(["--out", str(out), *SMALL, "--first-day", "2024-02-28", "--categories", "4"])
    (path,) = (out / "events/day=2024-02-29").glob("part-*.parquet")
    assert set(pq.read_table(path)["category_id"].to_pylist()) <= {1, 2, 3, 4}
    summary = json.loads((out / "truth/summary.json").read_text())
    assert summary["settings"]["catalogue"]["categories"] == 4
    assert summary["settings"]["seed"] == 0
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed
    oracle = summary["tasks"]["ctr"]["last_days"]["oracle_auc"]
    assert f"oracle                  {oracle:.4f}" in printed
    assert "cvr: the log ends before the first window does" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--zipf-exponent", "steep"], 2, "ConfigError: --zipf-exponent: "),
        (["--pool", "3"], 2, "ConfigError: pool is 3, fewer items than slots"),
        (["--first-day", "yesterday"], 2, "ConfigError: --first-day: "),
        (["--no-such-option", "3"], 2, "unrecognized arguments: --no-such-option"),
    ],
)
def test_a_wrong_setting_names_its_option(tmp_path, capsys, arguments, code, message):
    with pytest.raises(SystemExit) as raised:
        main(["--out", str(tmp_path / "out"), *SMALL, *arguments])
    assert raised.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(SystemExit) as raised:
        main(["--out", str(tmp_path), *SMALL])
    assert raised.value.code == 1
    assert "DataError" in capsys.readouterr().err


def test_every_setting_has_an_option_of_its_own():
    settings = simulation_settings({"users": "3", "items": "4", "days": "5", "noise": "0.25"})
    assert (settings.users, settings.ranker.noise) == (3, 0.25)
    with pytest.raises(SystemExit):
        main(["--help"])
