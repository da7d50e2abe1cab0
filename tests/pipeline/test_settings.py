import pytest
from pydantic import Field

from pipeline.errors import ConfigError
from pipeline.settings import Settings, load_settings, settings_digest


class Inner(Settings):
    num_steps: int = Field(default=10, ge=1)
    name: str = "plain"


class Outer(Settings):
    train: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    required: int


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("required = 1\n[train]\nnum_steps = 5\n")
    return path


def test_file_and_overrides(config):
    overrides = ["train.num_steps=7", "train.name=/tmp/some folder"]
    settings = load_settings(Outer, config, overrides)
    assert settings.train == Inner(num_steps=7, name="/tmp/some folder")
    assert settings.required == 1


@pytest.mark.parametrize(
    "text",
    ["7", "404832647e020150", "1234567890123456", "0x1f", "inf", "true", "2024-01-01", "[1]"],
)
def test_what_takes_text_takes_it_as_it_is(config, text):
    """Whatever else TOML makes of it; what takes a number takes it as TOML does."""
    overrides = ["train.num_steps=0x1f", f"train.name={text}", "parts=[{name='7'}]"]
    settings = load_settings(Outer, config, overrides)
    assert settings.train == Inner(num_steps=31, name=text)
    assert settings.parts == (Inner(name="7"),)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("parts=[{name=7}]", r"parts\.0\.name: .*valid string \(got 7\)"),
        ("train.num_stpes=3", r"train\.num_stpes: unknown setting; known: name, num_steps"),
        ("trian.num_steps=3", r"trian: unknown setting; known: parts, required, train"),
        ("train.num_steps='many'", r"train\.num_steps: .*integer.*\(got 'many'\)"),
        ("train.num_steps=0", r"train\.num_steps: .*greater than or equal to 1"),
        ("train=3", r"train: "),
        ("parts=[{nam='x'}]", r"parts\.0\.nam: unknown setting; known: name, num_steps"),
        ("train.num_steps", "expected a.b=value"),
        ("required.deeper=1", "required is not a section"),
    ],
)
def test_mistakes_are_named_by_their_path(config, override, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(Outer, config, [override])


def test_missing_setting_missing_file_and_bad_toml(tmp_path):
    path = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match="no such config file"):
        load_settings(Outer, path)
    path.write_text("[train]\n")
    with pytest.raises(ConfigError, match="required: required setting is missing"):
        load_settings(Outer, path)
    path.write_text("[train\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(Outer, path)


def test_digest_names_the_values():
    assert settings_digest(Inner()) == settings_digest(Inner(num_steps=10))
    assert settings_digest(Inner()) != settings_digest(Inner(num_steps=11))
