"""The report: one HTML file that says what the strategies did, to be read without a network.

    RunRecords, baselines, facts -> findings, charts -> report.html, summary for the terminal

Everything is in the file: style, tables, charts as SVG. It reads on a phone, in the dark and on
paper.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.charts import auc_charts, pretraining_chart
from jobs.findings import (
    baseline_sentence,
    curve_rows,
    headline_rows,
    ordering_sentence,
    text_table,
)
from jobs.metrics import RankingResult
from jobs.page import Row, note, paragraph, section, table, write_page
from jobs.run_records import RunRecord, baseline_records
from jobs.strategies import Strategy

__all__ = ["format_table", "write_report"]

Baselines = Mapping[str, Mapping[str, RankingResult]]

_TERMINAL_WIDTH = 95

_STRATEGIES: Sequence[Row] = (
    ("strategy", "embedding tables", "dense layers"),
    *(
        (
            strategy.value,
            ("from pretraining" if strategy.transfers_tables else "random")
            + (", frozen" if strategy.freezes_tables else ""),
            "from pretraining" if strategy.transfers_dense else "random",
        )
        for strategy in Strategy
    ),
)


def write_report(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    runs: Sequence[RunRecord],
    baselines: Baselines,
    pretraining: RunRecord | None = None,
) -> None:
    """Write the report to `path`, replacing what is there in one step.

    `facts` are shown as they are, in their order: data, days, counts, model, machine, commands.
    `baselines` are split -> name -> result.
    """
    sections = [
        _headline_section(runs, baseline_records(baselines)),
        _curves_section(runs),
        *([_pretraining_section(pretraining)] if pretraining else []),
        section("The run", table([("what", "value"), *facts.items()], words=True)),
    ]
    write_page(path, title, sections)


def format_table(runs: Sequence[RunRecord], baselines: Baselines) -> str:
    """The headline for a terminal: the same table, and the same sentences below it."""
    records = baseline_records(baselines)
    sentences = [ordering_sentence(runs), *([baseline_sentence(runs, records)] if records else [])]
    wrapped = [textwrap.fill(sentence, _TERMINAL_WIDTH) for sentence in sentences]
    return "\n\n".join([text_table(headline_rows([*runs, *records])), *wrapped])


def _headline_section(runs: Sequence[RunRecord], baselines: Sequence[RunRecord]) -> str:
    parts = [paragraph(ordering_sentence(runs))]
    if baselines:
        parts.append(paragraph(baseline_sentence(runs, baselines)))
    parts += [
        table(headline_rows([*runs, *baselines])),
        note(
            "val: validation days. AUC comes from histograms of the logits; the exact one of the "
            "test days is within +/-. Loss is log loss in nats. Calibration is the sum of "
            "predictions over the number of positives. samples/s counts (history, candidate) "
            "pairs in training, over all processes. The weights are those with the best "
            "validation AUC. Rows below the strategies need no training; their scores are counts, "
            "so only their AUC has a meaning."
        ),
        table(_STRATEGIES, words=True),
    ]
    return section("Strategies", *parts)


def _curves_section(runs: Sequence[RunRecord]) -> str:
    charts = "".join(f"<figure>{chart}</figure>" for chart in auc_charts(runs))
    return section(
        "Within and across epochs",
        f'<div class="charts">{charts}</div>',
        note(
            "Both charts have one scale; training may start below it. Training AUC is of each "
            "batch before the model learns it, since the line before. One-epoch overfitting looks "
            "like this: at an epoch's end training AUC jumps up and validation AUC drops."
        ),
        table(curve_rows(runs)),
    )


def _pretraining_section(run: RunRecord) -> str:
    return section(
        "Generative pretraining",
        f'<div class="charts"><figure>{pretraining_chart(run)}</figure></div>',
        note(
            "Item ids by sampled softmax over the drawn negatives, other features by full softmax, "
            "so the curves are comparable with themselves only."
        ),
    )
