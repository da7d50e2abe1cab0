"""A scheduler that cannot be used is a setting that is wrong, before anything begins."""

import argparse

import pytest

from jobs.chain import schedulers
from jobs.chain.driver import ledger_url, run_days
from jobs.chain.preview import preview
from jobs.chain.schedulers import check_scheduler
from jobs.chain.settings import DailySettings
from jobs.ledger.ledger import look_at_ledger
from pipeline.errors import ConfigError
from tests.jobs.daily_root import FIRST, DailyRoot


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        ("slrum", {}, r"^daily\.scheduler: 'slrum' is none of torchx's: .*local_cwd, slurm,"),
        ("aws_batch", {}, r"^daily\.scheduler_options: aws_batch: Required run option: queue"),
        ("aws_batch", {"queue": 3}, r"queue, must be of type: str, but was: 3 \(int\)\.$"),
        ("slurm", {"partitoin": "a"}, r"^daily\.scheduler_options: partitoin: .* known: parti"),
    ],
)
def test_a_wrong_scheduler_or_option_is_named(scheduler, options, message):
    with pytest.raises(ConfigError, match=message):
        check_scheduler(DailySettings(scheduler=scheduler, scheduler_options=options))


@pytest.mark.parametrize(
    "daily",
    [
        DailySettings(),
        DailySettings(scheduler="slurm", scheduler_options={"partition": "nights"}),
        DailySettings(scheduler="aws_batch", scheduler_options={"queue": "q", "priority": 3}),
    ],
    ids=lambda daily: daily.scheduler,
)
def test_what_can_be_used_is_not_complained_of(daily):
    check_scheduler(daily)


@pytest.mark.parametrize(
    ("scheduler", "mount", "message"),
    [
        ("local_cwd", "type=bind,src=/data,dst=/data", "local_cwd mounts nothing; leave it out"),
        ("lsf", "src=/data,dst=/data", "'src=/data,dst=/data': 'type must be specified first'"),
        ("lsf", "type=bind,src=/data", "'type=bind,src=/data': 'dst_path'|'dst'"),
        ("lsf", "type=nfs,src=/data,dst=/data", "invalid mount type 'nfs'"),
    ],
)
def test_a_mount_that_would_not_be_is_named(scheduler, mount, message):
    with pytest.raises(ConfigError, match=rf"^daily\.mounts: .*{message}"):
        check_scheduler(DailySettings(scheduler=scheduler, mounts=(mount,)))


@pytest.mark.parametrize("module", ["frostrank_has_no_such", "frostrank_has.no.such"])
def test_a_package_that_is_missing_is_to_be_installed(monkeypatch, module):
    monkeypatch.setitem(schedulers._NEEDED, "kubernetes", (module, "kubernetes<37"))
    with pytest.raises(ConfigError, match=r"kubernetes needs .*; pip install 'kubernetes<37', or"):
        check_scheduler(DailySettings(scheduler="kubernetes"))


def test_no_day_is_begun(tmp_path):
    chain = DailyRoot(tmp_path)
    overrides = ["daily.scheduler=slrum"]
    arguments = argparse.Namespace(config=chain.config, overrides=overrides)
    with pytest.raises(ConfigError, match="slrum"):
        run_days(arguments, [FIRST])
    settings = chain.settings(*overrides)
    with (
        look_at_ledger(ledger_url(settings)) as ledger,
        pytest.raises(ConfigError, match="slrum"),
    ):
        list(preview(arguments, settings, ledger, [FIRST]))
    assert not (chain.root / "runs").exists()
