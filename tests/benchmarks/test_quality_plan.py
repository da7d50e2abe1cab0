import pytest

from benchmarks.quality_plan import BASE, DATA_SETS, asked_strategies, chosen_variants
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from pipeline.errors import ConfigError
from pipeline.settings import load_settings

VARIANTS = [(data, name) for data in DATA_SETS for name in DATA_SETS[data].variants]


@pytest.mark.parametrize(("data", "name"), VARIANTS)
def test_every_variant_is_a_valid_config_unlike_the_base(data, name):
    asked = DATA_SETS[data]
    plain = load_settings(JobSettings, asked.config)
    overrides = asked.variants[name].overrides
    settings = load_settings(JobSettings, asked.config, overrides)
    assert (settings == plain) == (name == BASE)


def test_only_takes_what_it_names_and_what_that_builds_on():
    beauty = DATA_SETS["beauty"]
    assert list(chosen_variants(beauty, None)) == list(beauty.variants)
    assert list(chosen_variants(beauty, "bf16")) == ["bf16"]
    assert BASE in chosen_variants(beauty, "authors")
    with pytest.raises(ConfigError, match="no such variant"):
        chosen_variants(beauty, "int8")


def test_strategies_are_those_named_that_the_variant_has():
    variant = DATA_SETS["beauty"].variants["negatives of each sequence"]
    assert set(asked_strategies(variant, [])) == {*Strategy} - {Strategy.NT}
    assert asked_strategies(variant, ["ST&SF", "NT"]) == (Strategy.ST_SF,)
    with pytest.raises(ConfigError, match="'SF': unknown"):
        asked_strategies(variant, ["SF"])
