import pytest
from pydantic import ValidationError

from pipeline.adapters.settings import FORMATS_OF, IngestSettings

CSV = {"format": "csv", "files": ["a"]}


def test_every_setting_says_which_formats_it_is_for():
    assert set(FORMATS_OF) == set(IngestSettings.model_fields)


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "movielens"},
        {"format": "complete_journey"},
        {"format": "taobao", "files": ["a"], "actions": {"pv": "view"}},
        {**CSV, "header": False, "column_names": ["a", "b"], "quote": ""},
        {**CSV, "delimiter": "\x01"},
        {**CSV, "delimiter": "\t", "actions": {"1": "click"}, "columns": {"action": "type"}},
        {**CSV, "first_day": "2024-01-01", "last_day": "2024-01-01"},
    ],
)
def test_settings_that_go_together(settings):
    IngestSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "csv"}, r"ingest\.files: name the files"),
        (
            {"format": "taobao", "files": ["a"], "delimiter": ","},
            r"ingest\.delimiter: says nothing",
        ),
        ({"format": "movielens", "metadata": ["a"]}, r"its settings: format, files, first_day"),
        ({"format": "tsv", "files": ["a"]}, "'csv', 'jsonl'"),
        ({**CSV, "action": "a", "actions": {"b": "c"}}, r"ingest\.action: is for files without"),
        ({**CSV, "action": "a", "columns": {"action": "b"}}, r"ingest\.action: is for files"),
        ({**CSV, "time_unit": "s", "time_format": "%d"}, r"ingest\.time_format: .*choose one"),
        ({**CSV, "first_day": "2024-01-02", "last_day": "2024-01-01"}, r"ingest\.first_day: "),
        ({**CSV, "header": False}, r"ingest\.column_names: required"),
        ({**CSV, "column_names": ["a"]}, r"ingest\.column_names: required"),
        ({**CSV, "header": False, "column_names": ["a", "a"]}, r"ingest\.column_names: a name"),
        ({**CSV, "delimiter": '"'}, r"ingest\.quote: is the delimiter"),
        ({**CSV, "delimiter": "::"}, "delimiter"),
        ({**CSV, "delimiter": "\xa6"}, "delimiter"),
        ({**CSV, "quote": "''"}, "quote"),
        ({"format": "movielens", "min_rating": float("nan")}, "finite"),
    ],
)
def test_settings_that_do_not(settings, message):
    with pytest.raises(ValidationError, match=message):
        IngestSettings.model_validate(settings)
