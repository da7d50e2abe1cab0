import json
import math
import re
from html.parser import HTMLParser

import pytest

from jobs.charts import auc_charts, pretraining_chart
from jobs.findings import (
    auc_sampling_error,
    baseline_sentence,
    curve_rows,
    headline_rows,
    ordering_sentence,
)
from jobs.metrics import RankingResult
from jobs.report import format_table, write_report
from jobs.run_records import RunRecord, baseline_records, load_run
from pipeline.errors import CorruptFileError, StageError

STRATEGIES = ("NT", "FT", "ST", "FT&SF", "ST&SF")
VISIBLE = dict(zip(STRATEGIES, (0.68, 0.76, 0.75, 0.82, 0.83), strict=True))


def measured(auc):
    return {
        "auc": auc,
        "auc_error": 2e-5,
        "log_loss": 0.5123,
        "normalized_entropy": 0.9,
        "calibration": 1.01,
        "num_samples": 20_000,
        "num_positives": 10_000,
    }


def train_line(step, auc):
    return {
        "kind": "train",
        "step": step,
        "epoch": step / 10,
        "loss": 0.6,
        "auc": auc,
        "losses": {},
    }


def evaluation_line(step, auc):
    return {
        "kind": "evaluation",
        "split": "validation",
        "step": step,
        "epoch": step / 10,
        "auc": auc,
    }


def run_of(name, test_auc, evaluations=(0.6, 0.7, 0.65)):
    lines = []
    for place, auc in enumerate(evaluations, start=1):
        lines.append(train_line(10 * place, 0.5 + place / 10))
        lines.append(evaluation_line(10 * place, auc))
    result = {
        "job": "rank",
        "strategy": name,
        "validation": measured(test_auc + 0.01),
        "test": measured(test_auc),
        "samples_per_s": 9123.4,
    }
    return RunRecord(name, lines, result)


def runs_of(**aucs):
    return [run_of(name, auc) for name, auc in (VISIBLE | aucs).items()]


def baselines_of(auc):
    nan = math.nan
    result = RankingResult(
        auc=auc,
        auc_error=0.0,
        log_loss=nan,
        normalized_entropy=nan,
        calibration=nan,
        num_samples=20_000,
        num_positives=10_000,
    )
    return {"validation": {"item popularity": result}, "test": {"item popularity": result}}


PRETRAINING = RunRecord(
    "pretrain",
    [
        {
            "kind": "train",
            "step": step,
            "epoch": step / 50,
            "loss": 8.0,
            "losses": {"item_id": 6.0 - step / 100, "department": 2.0},
        }
        for step in range(1, 151)
    ],
    {"job": "pretrain"},
)


class Page(HTMLParser):
    """Checks that tags nest, and keeps what a reader would see and what it points to."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.attributes = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def written(tmp_path, **more):
    path = tmp_path / "report.html"
    arguments = {"facts": {"data": "<groceries> & more"}, "baselines": baselines_of(0.7)} | more
    write_report(path, "Five strategies", runs=runs_of(), **arguments)
    return path.read_text()


def test_report_is_one_whole_page_that_needs_nothing_else(tmp_path):
    text = written(tmp_path, pretraining=PRETRAINING)
    page = Page(text)
    assert "http" not in text
    assert "<script" not in text
    pointers = [
        value for _, name, value in page.attributes if name in ("src", "href", "xlink:href")
    ]
    assert all(value.startswith("#") for value in pointers)
    assert text.count("<svg") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_report_shows_figures_sentences_and_facts(tmp_path):
    runs = runs_of()
    seen = " ".join(Page(written(tmp_path)).text)
    for expected in (
        "0.8300",
        "9,123",
        "item popularity",
        "<groceries> & more",
        ordering_sentence(runs),
        "Validation AUC",
    ):
        assert expected in seen
    assert "Pretraining loss" not in seen


def test_ids_of_the_charts_do_not_collide(tmp_path):
    ids = [value for _, name, value in Page(written(tmp_path)).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_charts_take_the_pages_colours_and_keep_a_strategys():
    validation, training = auc_charts(runs_of())
    for chart in (validation, training):
        assert "currentColor" in chart
        assert "var(--line)" in chart
        assert "#010203" not in chart
        assert "#0072b2" in chart
        assert all(name.replace("&", "&amp;") in chart for name in STRATEGIES)


def test_same_figures_give_the_same_chart():
    assert auc_charts(runs_of()) == auc_charts(runs_of())


def test_charts_of_a_run_without_lines():
    empty = RunRecord("NT", [], {"test": measured(0.6)})
    assert all("<svg" in chart for chart in auc_charts([empty]))
    assert "<svg" in pretraining_chart(RunRecord("pretrain", [], {}))


def test_pretraining_chart_names_each_loss():
    chart = pretraining_chart(PRETRAINING)
    assert "item_id" in chart
    assert "department" in chart


def test_ordering_is_visible_when_every_group_is_above_the_next():
    sentence = ordering_sentence(runs_of())
    assert "is visible on this data" in sentence
    assert "frozen (FT&SF 0.8200, ST&SF 0.8300); not frozen (FT 0.7600" in sentence
    assert "NT (0.6800)" in sentence
    assert "0.0600, is more than three" in sentence


@pytest.mark.parametrize(
    ("aucs", "expected"),
    [
        ({"FT&SF": 0.755}, "the best frozen model is above the best of not frozen (by 0.0700)"),
        ({"FT&SF": 0.7, "ST&SF": 0.71}, "frozen is not above not frozen (by -0.0500)"),
        ({"NT": 0.755}, "the best not frozen model is above the best of NT (by 0.0050)"),
        ({"NT": 0.9}, "not frozen is not above NT (by -0.1400)"),
    ],
)
def test_ordering_that_is_not_there_is_said_to_be_missing(aucs, expected):
    sentence = ordering_sentence(runs_of(**aucs))
    assert "is not fully visible on this data" in sentence
    assert expected in sentence


def test_gaps_within_chance_are_said_to_be():
    sentence = ordering_sentence(runs_of(FT=0.7501, ST=0.75, **{"FT&SF": 0.7510, "ST&SF": 0.7511}))
    assert "0.0009, is not more than three" in sentence


def test_ordering_needs_a_run_of_every_group():
    runs = [run_of("ST&SF", 0.8), run_of("FT", math.nan)]
    assert "cannot be judged: no test AUC of not frozen and NT" in ordering_sentence(runs)


def test_sampling_error_is_that_of_many_samples():
    # Two normals one standard deviation apart: the AUC of 2,000 draws of 200 and 300 samples had
    # mean .7598 and standard deviation .0214.
    assert auc_sampling_error(0.7598, 200, 500) == pytest.approx(0.0214, rel=0.1)
    assert math.isnan(auc_sampling_error(0.7, 0, 100))


@pytest.mark.parametrize(("auc", "expected"), [(0.9, "none of 5"), (0.755, "3 of 5")])
def test_baseline_sentence_counts_the_models_above(auc, expected):
    sentence = baseline_sentence(runs_of(), baseline_records(baselines_of(auc)))
    assert expected in sentence
    assert f"{0.83 - auc:+.4f}" in sentence


def test_tables_show_a_dash_for_what_is_not_known():
    rows = headline_rows([run_of("NT", 0.7), *baseline_records(baselines_of(0.6))])
    assert rows[1] == ("NT", "0.7100", "0.5123", "0.7000", "0.00002", "0.5123", "1.010", "9,123")
    assert rows[2] == ("item popularity", "0.6000", "-", "0.6000", "0.00000", "-", "-", "-")


def test_null_in_a_result_is_not_known_either():
    run = RunRecord("NT", [], {"test": {"auc": None}, "samples_per_s": None})
    assert headline_rows([run])[1] == ("NT", "-", "-", "-", "-", "-", "-", "-")


def test_curve_rows_find_the_best_evaluation_and_the_end():
    rows = curve_rows([run_of("FT", 0.7), RunRecord("NT", [], {})])
    assert rows[1:] == [("FT", "0.7000", "2.00", "0.6500", "0.8000")]


def test_terminal_table_is_aligned_and_narrow():
    text = format_table(runs_of(), baselines_of(0.7))
    table = text.split("\n\n", maxsplit=1)[0].splitlines()
    assert len({len(line) for line in table}) == 1
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.isascii()


def test_load_run_reads_a_folder_and_drops_a_line_cut_short(tmp_path):
    lines = [train_line(10, 0.6), evaluation_line(10, 0.7)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "tra')
    (tmp_path / "result.json").write_text(json.dumps({"strategy": "ST&SF"}))
    assert load_run(tmp_path) == RunRecord("ST&SF", lines, {"strategy": "ST&SF"})


def test_load_run_names_a_run_that_did_not_finish(tmp_path):
    with pytest.raises(StageError, match=re.escape(str(tmp_path / "result.json"))):
        load_run(tmp_path)


def test_load_run_names_a_damaged_file(tmp_path):
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"result\.json: not JSON"):
        load_run(tmp_path)
