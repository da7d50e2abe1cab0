"""A real Prometheus with its parts watches real training: every query of ours has an answer."""

import json
import re
import socket
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from jobs.monitoring.facts import StageFacts
from jobs.monitoring.metrics import GATES, METRICS
from jobs.monitoring.push import publish_metrics
from jobs.monitoring.settings import MonitoringSettings
from jobs.runs import RunFolder
from jobs.strategies import Strategy
from tests.integration.conftest import settings_of, torchrun
from tests.integration.prepared import copy_prepared
from tests.integration.prometheus_parts import (
    DEPLOYED,
    Monitored,
    free_port,
    get,
    missing_parts,
    wait_for,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_parts()),
        reason=f"Debian's packages for these are not installed: {', '.join(missing_parts())}",
    ),
]

BOARD = json.loads((DEPLOYED.parent / "grafana" / "frostrank.json").read_text())
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    .replace("$__rate_interval", "15s")
    .replace("$task", ".*")
    for panel in BOARD["panels"]
    for target in panel.get("targets", ())
}
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((DEPLOYED / "recording.rules.yml").read_text())["groups"]
    for rule in group["rules"]
}
TODAY = datetime.now(UTC).date()
# Longer than anybody waits: the test ends it.
WITHOUT_END = (
    "pretraining.training.epochs=100000",
    "pretraining.training.log_every_steps=2",
    "ranking.training.epochs=100000",
    "ranking.training.log_every_steps=2",
    "ranking.strategy=NT",
)


def facts(state="succeeded", day=TODAY - timedelta(days=1), **more):
    started = datetime.now(UTC) - timedelta(minutes=5)
    ended = None if state == "running" else datetime.now(UTC)
    return StageFacts(state=state, data_day=day, started=started, ended=ended, **more)


MEASURED = {
    "evaluated_rows": 1000,
    "auc": 0.75,
    "log_loss": 0.4,
    "normalized_entropy": 0.9,
    "calibration_ratio": 1.05,
}
PUBLISHED = {
    "published_auc": 0.74,
    "published_log_loss": 0.41,
    "published_calibration_ratio": 1.01,
}
TABLES = {
    "table_rows": 4096,
    "table_bytes": 4096 * 64,
    "export_tables": 3,
    "export_bytes": 4096 * 65,
}
TRAINED = {
    "run_steps": 10,
    "run_samples": 1000,
    "run_training_seconds": 2.0,
    "checkpoint_bytes": 9999,
}
DATA = {
    "event_rows": 100_000,
    "set_aside_rows": 10,
    "request_rows": 5000,
    "candidate_rows": 50_000,
    "new_item_ratio": 0.01,
    "label_ratios": {"purchase": 0.1},
}


def push_a_day(settings):
    """What the daily driver pushes; simulated figures."""
    gates = dict.fromkeys(GATES, True)
    for stage, task, more in (
        ("prepare", "", DATA),
        ("test", "purchase", {**MEASURED, "new_item_auc": 0.7}),
        ("pretrain", "", {**TRAINED, "table_known_rows": 3000, "table_new_rows": 30}),
        ("export", "", TABLES),
        ("rank", "purchase", TRAINED),
        (
            "gate",
            "purchase",
            {**MEASURED, **PUBLISHED, "gates": gates, "table_norm": 1, "table_drift_ratio": 0.1},
        ),
        ("publish", "", {"serving_day": TODAY - timedelta(days=1)}),
    ):
        publish_metrics(settings, stage, task, facts(**more))
    for stage, task in (("pretrain", ""), ("rank", "purchase")):
        publish_metrics(settings, stage, task, facts("running", day=TODAY))


@pytest.fixture(scope="module")
def ports():
    """Two in a row: the jobs have one config, and the second one takes the next port."""
    while True:
        first = free_port()
        try:
            with closing(socket.create_server(("127.0.0.1", first + 1))):
                return [first, first + 1]
        except (OSError, OverflowError):
            continue


@pytest.fixture(scope="module")
def monitored(tmp_path_factory, ports):
    with Monitored(tmp_path_factory.mktemp("monitored"), ports) as running:
        yield running


@pytest.fixture(scope="module")
def root(shop, monitored, tmp_path_factory, ports):
    """The root of two jobs that train, one in two processes, while the tests look at them."""
    root = tmp_path_factory.mktemp("trained") / "root"
    copy_prepared(shop, root)
    settings = MonitoringSettings(pushgateway=monitored.gateway, textfile=monitored.textfiles)
    push_a_day(settings)
    overrides = [*WITHOUT_END, f"data.root={root}", f"monitoring.port={ports[0]}"]
    arguments = [part for override in overrides for part in ("--set", override)]
    one = [sys.executable, "-m", "jobs.pretrain", "--config", str(shop), *arguments]
    jobs = []
    try:
        for name, command in (("one", one), ("two", torchrun(2, "rank", shop, *arguments))):
            with (monitored.folder / f"{name}.log").open("w") as log:
                jobs.append(subprocess.Popen(command, stdout=log, stderr=log))
        wait_for("training", lambda: _has_been_seen(monitored, jobs))
        yield root
        assert [job.poll() for job in jobs] == [None, None]
    finally:
        for job in jobs:
            job.terminate()
        for job in jobs:
            job.wait()


def _has_been_seen(monitored, jobs):
    """Scraped often enough for rates, after a checkpoint and a validation."""
    logs = [(monitored.folder / f"{name}.log").read_text() for name in ("one", "two")]
    assert [job.poll() for job in jobs] == [None, None], "\n".join(logs)
    scrapes = monitored.query("count_over_time(frostrank_training_checkpoints_total[1m]) > 5")
    validated = monitored.query("frostrank_training_validation_auc")
    return len(scrapes) == 2 and validated


@pytest.mark.parametrize("name", QUERIES)
def test_every_panel_has_data(monitored, root, name):
    series = monitored.query(QUERIES[name])
    assert series
    assert all(one["value"][1] not in ("+Inf", "-Inf") for one in series)


@pytest.mark.parametrize("record", RECORDED)
def test_every_recording_rule_has_data_and_is_recorded(monitored, root, record):
    assert monitored.query(RECORDED[record])
    assert wait_for(record, lambda: monitored.query(record))


def test_both_jobs_are_seen_by_their_labels(monitored, root):
    series = monitored.query("frostrank_training_ranks")
    found = {
        (one["metric"]["stage"], one["metric"].get("task", "")): one["value"][1] for one in series
    }
    assert found == {("pretrain", ""): "1", ("rank", "purchase"): "2"}
    waits = monitored.query('frostrank_training_reader_wait_seconds_total{stage="rank"}')
    assert {one["metric"]["rank"] for one in waits} == {"0", "1"}


def test_the_endpoint_says_what_the_run_logged(root, shop, ports):
    """Sums over two ranks are those of the run's own metrics."""
    texts = [get(f"http://127.0.0.1:{port}/metrics") for port in ports]
    (text,) = [text for text in texts if 'stage="rank"' in text]
    values = dict(re.findall(r"^(\w+)\{[^}]*\} (\S+)$", text, re.MULTILINE))
    steps = float(values["frostrank_training_steps_total"])
    folder = RunFolder(settings_of(shop, f"data.root={root}").ranking_folder(Strategy.NT))
    lines = [line for line in folder.lines() if line["kind"] == "train" and line["step"] <= steps]
    assert lines[-1]["step"] == steps
    logged = sum(line["samples"] for line in lines)
    assert float(values["frostrank_training_samples_total"]) == logged
    assert float(values["frostrank_training_step_seconds_count"]) == 2 * steps
    waits = re.findall(r"^frostrank_training_reader_wait_\w+\{[^}]*\} (\S+)$", text, re.MULTILINE)
    assert len(waits) == 2
    assert 0 < sum(map(float, waits)) < float(values["frostrank_training_step_seconds_sum"])
    for name in ("loss", "auc", "learning_rate", "gradient_norm"):
        assert float(values[f"frostrank_training_{name}"]) == pytest.approx(lines[-1][name])


def test_promtool_finds_nothing_to_say_about_the_metrics(monitored, root, ports):
    pages = [f"http://127.0.0.1:{port}/metrics" for port in ports]
    pages.append(f"{monitored.gateway}/metrics")
    for page in pages:
        ours = [line for line in get(page).splitlines(keepends=True) if "frostrank_" in line]
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input="".join(ours),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stderr) == (0, "")


def test_every_metric_is_shown_by_a_job_or_pushed(monitored, root):
    names = json.loads(
        get(f"http://127.0.0.1:{monitored.ports['prometheus']}/api/v1/label/__name__/values")
    )
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names["data"]}
    assert {name for name in ours if name.startswith("frostrank_")} == set(METRICS)


def test_gateway_and_textfile_say_the_same_and_rules_count_it_once(monitored, root):
    series = monitored.query("frostrank_event_rows")
    assert {one["metric"]["job"] for one in series} == {"frostrank", "node"}
    assert monitored.value("frostrank:event_rows:max") == DATA["event_rows"]


def test_a_failure_keeps_the_last_success_and_alerts(monitored, root):
    """By the gateway, to Prometheus, to the Alertmanager; with the files in deploy/."""
    settings = MonitoringSettings(pushgateway=monitored.gateway)
    published = monitored.value('max(frostrank_data_day_timestamp_seconds{stage="export"})')
    publish_metrics(settings, "export", "", facts("failed", day=TODAY))
    gates = dict.fromkeys(GATES, True) | {"auc": False}
    publish_metrics(settings, "gate", "purchase", facts("rejected", day=TODAY, gates=gates))

    def alerted():
        found = {(a["alertname"], a["stage"], a.get("gate", "")) for a in monitored.alerts()}
        return found >= {
            ("FrostrankStageFailed", "export", ""),
            ("FrostrankDayRejected", "gate", ""),
            ("FrostrankGateFailed", "gate", "auc"),
        }

    wait_for("alerts", alerted)
    day = monitored.value('max(frostrank_data_day_timestamp_seconds{stage="export"})')
    assert day == published
    midnight = datetime.combine(TODAY, datetime.min.time(), UTC).timestamp()
    assert day == midnight - 86_400
    fired = {alert["alertname"] for alert in monitored.alerts()}
    assert fired <= {"FrostrankStageFailed", "FrostrankDayRejected", "FrostrankGateFailed"}


@pytest.mark.parametrize(
    "command",
    [
        ("promtool", "check", "config", "prometheus.yml"),
        ("promtool", "check", "rules", "recording.rules.yml", "alerts.rules.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
    ],
    ids=lambda command: " ".join(command[1:3]),
)
def test_the_files_in_deploy_pass_their_tools(command):
    checked = subprocess.run(command, cwd=DEPLOYED, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def promtool_tests(folder):
    names = sorted(path.name for path in folder.glob("*.test.yml"))
    command = ["promtool", "test", "rules", *names]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_alerts_pass_their_unit_tests():
    checked = promtool_tests(DEPLOYED)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("broken", ["vector(1) < 0", "vector(1)"])
def test_the_unit_tests_see_every_alert_that_never_or_always_fires(tmp_path, broken):
    for path in DEPLOYED.glob("*.yml"):
        (tmp_path / path.name).write_text(path.read_text())
    groups = yaml.safe_load((DEPLOYED / "alerts.rules.yml").read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"]]
    for alert in alerts:
        alert["expr"] = broken
        alert.pop("for", None)
    (tmp_path / "alerts.rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    checked = promtool_tests(tmp_path)
    assert checked.returncode != 0
    seen = set(re.findall(r"alertname: (\w+)", checked.stdout + checked.stderr))
    assert seen == {alert["alert"] for alert in alerts}
