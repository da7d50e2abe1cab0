"""The report: one HTML file that says what the strategies did, to be read without a network.

    RunRecords, baselines, facts -> findings, charts -> report.html, summary for the terminal

Everything is in the file: style, tables, charts as SVG. It reads on a phone, in the dark and on
paper.
"""

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
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
from jobs.run_records import RunRecord, baseline_records, load_run
from jobs.strategies import Strategy

__all__ = [
    "RunRecord",
    "baseline_records",
    "format_table",
    "load_run",
    "write_report",
]

Row = tuple[str, ...]
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

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c5c5c; --paper: #fff; --line: #b9b9b9;
  --band: #f3f5f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --paper: #15181b;
  --line: #565b61; --band: #20252a; } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --line: #999; --band: #f2f2f2; }
  figure, tr { break-inside: avoid; } body { max-width: none; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.note { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
tbody tr:nth-child(even) { background: var(--band); }
.words td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.words td:first-child { white-space: nowrap; }
@media print, (max-width: 40rem) { table { font-size: .8rem; } th, td { padding: .3rem .4rem; } }
@media print { .wide { overflow: visible; } table { font-size: .7rem; } }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: 1rem; }
figure { margin: 0; max-width: 34rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font-family: system-ui, sans-serif !important; }
"""


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
        _section("The run", _table([("what", "value"), *facts.items()], words=True)),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def format_table(runs: Sequence[RunRecord], baselines: Baselines) -> str:
    """The headline for a terminal: the same table, and the same sentences below it."""
    records = baseline_records(baselines)
    sentences = [ordering_sentence(runs), *([baseline_sentence(runs, records)] if records else [])]
    wrapped = [textwrap.fill(sentence, _TERMINAL_WIDTH) for sentence in sentences]
    return "\n\n".join([text_table(headline_rows([*runs, *records])), *wrapped])


def _headline_section(runs: Sequence[RunRecord], baselines: Sequence[RunRecord]) -> str:
    parts = [_paragraph(ordering_sentence(runs))]
    if baselines:
        parts.append(_paragraph(baseline_sentence(runs, baselines)))
    parts += [
        _table(headline_rows([*runs, *baselines])),
        _note(
            "val: validation days. AUC comes from histograms of the logits; the exact one of the "
            "test days is within +/-. Loss is log loss in nats. Calibration is the sum of "
            "predictions over the number of positives. samples/s counts (history, candidate) "
            "pairs in training, over all processes. The weights are those with the best "
            "validation AUC. Rows below the strategies need no training; their scores are counts, "
            "so only their AUC has a meaning."
        ),
        _table(_STRATEGIES, words=True),
    ]
    return _section("Strategies", *parts)


def _curves_section(runs: Sequence[RunRecord]) -> str:
    charts = "".join(f"<figure>{chart}</figure>" for chart in auc_charts(runs))
    return _section(
        "Within and across epochs",
        f'<div class="charts">{charts}</div>',
        _note(
            "Both charts have one scale; training may start below it. Training AUC is of each "
            "batch before the model learns it, since the line before. One-epoch overfitting looks "
            "like this: at an epoch's end training AUC jumps up and validation AUC drops."
        ),
        _table(curve_rows(runs)),
    )


def _pretraining_section(run: RunRecord) -> str:
    return _section(
        "Generative pretraining",
        f'<div class="charts"><figure>{pretraining_chart(run)}</figure></div>',
        _note(
            "Item ids by sampled softmax over the drawn negatives, other features by full softmax, "
            "so the curves are comparable with themselves only."
        ),
    )


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _table(rows: Sequence[Row], *, words: bool = False) -> str:
    """An HTML table; the first row is its header. `words`: text, which may wrap, not numbers."""
    head, *body = (
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * (len(rows) - 1), rows, strict=True)
    )
    attribute = ' class="words"' if words else ""
    return (
        f'<div class="wide"><table{attribute}>\n<thead>{head}</thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )
