"""The whole config: what its sections say of each other."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.settings import JobSettings
from pipeline.errors import ConfigError
from pipeline.settings import load_settings
from tests.jobs.small_shop import CONFIG

CONFIGS = sorted((Path(__file__).parents[2] / "deploy" / "configs").glob("*.toml"))
DAILY = next(path for path in CONFIGS if path.stem == "daily")
SHOWN = ["requests.candidates='events'", "requests.actions=['impression']"]
CTR = "tasks.ctr={label_actions=['click'], window='1h'}"
CVR = "tasks.cvr={label_actions=['purchase'], after='ctr'}"
PURCHASE = "tasks.purchase.label_actions=['purchase']"


@pytest.fixture
def settings(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(folder=tmp_path))
    return lambda *overrides: load_settings(JobSettings, config, overrides)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_example_config_is_one(config):
    load_settings(JobSettings, config)


@given(number=st.integers(0, 16**16 - 1))
@example(number=0x404832647E020150)
@example(number=0x1234567890123456)
def test_every_name_of_an_attempt_can_be_set(number):
    """Hexadecimal digits may look like a number: like inf, even."""
    name = f"{number:016x}"
    assert load_settings(JobSettings, DAILY, [f"daily.attempt={name}"]).daily.attempt == name


def test_what_prepare_gets(settings):
    made = settings("data.keep_states=3").preparation
    assert made.keep_states == 3
    assert list(made.tasks) == ["purchase"]
    assert made.requests.candidates == "sampled"
    assert made.last_training_day == date(2024, 1, 14)


def test_the_only_task_is_ranked_and_one_of_several_must_be_chosen(settings):
    assert settings().task == "purchase"
    assert settings(*SHOWN, PURCHASE, CTR, CVR, "ranking.task=cvr").task == "cvr"
    with pytest.raises(ConfigError, match=r"ranking\.task: '' is none of \[tasks\]: purchase, ctr"):
        settings(*SHOWN, PURCHASE, CTR)
    with pytest.raises(ConfigError, match=r"ranking\.task: 'ctr' is none of \[tasks\]: purchase"):
        settings("ranking.task=ctr")


def test_each_task_has_folders_of_its_own(settings):
    several = [*SHOWN, PURCHASE, CTR]
    folders = {
        settings(*several, f"ranking.task={task}").evaluation_folder for task in ("purchase", "ctr")
    }
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([PURCHASE], r"tasks\.purchase: label_actions and after are for"),
        (SHOWN, r"tasks\.purchase\.label_actions: required"),
        (["tasks.other={}"], r"tasks: purchase, other: there can be only one"),
        ([*SHOWN, PURCHASE, CVR], r"tasks\.cvr\.after: 'ctr' is no other task"),
        ([*SHOWN, PURCHASE, "tasks.purchase.window=3w"], r"'3w' is no duration; write 90s"),
        (["requests.task=purchase"], r"requests\.task: unknown setting"),
        (["engine.spark={}", "engine.kind=dask"], r"engine\.kind"),
        (["tasks={}"], r"tasks: "),
        (["data.keep_states=0"], r"data\.keep_states: .*greater than or equal to 1"),
    ],
)
def test_sections_that_contradict_each_other(settings, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        settings(*overrides)
