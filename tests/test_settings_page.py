"""docs/settings.md: every setting, explained, and as the code has it now."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

from jobs.settings import JobSettings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("settings_page", ROOT / "docs" / "settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_says(script):
    assert script.TARGET.read_text() == script.page(), "run .venv/bin/python docs/settings.py"


def test_every_setting_is_explained(script):
    for line in script.page().splitlines():
        if line.startswith("| `"):
            assert line.rsplit("|", 2)[1].strip(), (
                f"a comment is missing above this setting: {line}"
            )


def names_in(settings, path=""):
    """Dotted names of all values of a config."""
    for name, value in settings.items():
        entries = value if isinstance(value, list) else [value]
        inner = [entry for entry in entries if isinstance(entry, dict)]
        yield from (inside for entry in inner for inside in names_in(entry, name))
        if not inner:
            yield path, name


@pytest.mark.parametrize("config", sorted((ROOT / "deploy/configs").glob("*.toml")), ids=str)
def test_what_configs_say_is_on_the_page(script, config):
    rows = {line.split("`")[1] for line in script.page().splitlines() if line.startswith("| `")}
    tables = {"columns", "set_aside", "actions", "scheduler_options", "spark", "sharding"}
    tables |= {"max_null_share", "max_value_drift", "label_rate"}
    said = {n for path, n in names_in(tomllib.loads(config.read_text())) if path not in tables}
    assert said <= rows


def test_sections_are_named_as_in_a_config(script):
    page = script.page()
    headings = [line.split("`")[1] for line in page.splitlines() if line.startswith("## ")]
    assert {"[[features]]", "[tasks.NAME]", "[daily.stages.STAGE]", "[ranking.training]"} <= {
        *headings
    }
    tops = {heading.strip("[]").split(".")[0] for heading in headings}
    assert tops == set(JobSettings.model_fields)
