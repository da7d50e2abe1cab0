"""What a day's models must pass to be published: pure comparisons of figures with thresholds.

    judgements of the candidate and of the published ranker, tables before and after -> [Gate]

`jobs.daily` asks; one gate that is not passed keeps the whole day from being published. Data has
its own thresholds (`[checks]`), which stop a day before anything learns from it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from embeddings.manifests import TENSOR_NAME, ExportedTable, read_export
from jobs.chain.settings import GateSettings
from jobs.findings import auc_sampling_error

__all__ = [
    "Gate",
    "TableFigures",
    "model_gates",
    "progressive_gate",
    "table_figures",
    "table_gates",
]

# Rows of a table that are compared: enough for a mean to two digits, and read in a moment.
_SAMPLE_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One comparison."""

    name: str
    """one of `jobs.monitoring.metrics.GATES`"""
    passed: bool
    text: str
    """figure and threshold in words, with the setting"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFigures:
    """A table of the day's export beside that of the published one."""

    name: str
    is_finite: bool
    """whether no value of any row is NaN or infinite"""
    norm: float
    """mean Euclidean norm of its rows"""
    norm_before: float
    """of the published export's; NaN without one"""
    drift: float
    """mean distance of a row from what it was, over the mean norm before; NaN without one"""


def model_gates(
    candidate: Mapping[str, Any], published: Mapping[str, Any] | None, settings: GateSettings
) -> Iterator[Gate]:
    """Of one task: a judgement's "all" of the candidate, and of the published ranker."""
    loss = _number(candidate["log_loss"])
    yield Gate(
        name="finite", passed=math.isfinite(loss), text=f"the candidate's log loss is {loss:.4f}"
    )
    if not math.isfinite(loss):
        return
    count, positives = candidate["num_samples"], candidate["num_positives"]
    if count < settings.min_candidates or not 0 < positives < count:
        yield Gate(
            name="auc",
            passed=False,
            text=f"{positives:,} positives among {count:,} held-out candidates say nothing; "
            f"daily.gates.min_candidates {settings.min_candidates:,}: hold out more users, or "
            "score more days",
        )
        return
    if settings.min_auc:
        yield _chance_gate(candidate, settings)
    yield _calibration_gate(candidate, published, settings)
    if published is not None:
        yield _auc_gate(candidate, published, settings)
        yield _log_loss_gate(candidate, published, settings)


def _chance_gate(candidate: Mapping[str, Any], settings: GateSettings) -> Gate:
    """Whether it tells candidates apart at all, whatever is published.

    A model that collapsed scores all alike, which is an AUC of 0.5. One that was published would
    set the standard for those after it.
    """
    auc, count = _number(candidate["auc"]), candidate["num_samples"]
    noise = settings.sampling_errors * auc_sampling_error(0.5, candidate["num_positives"], count)
    return Gate(
        name="chance",
        passed=auc > settings.min_auc + noise,
        text=f"{auc:.4f}; must be above daily.gates.min_auc {settings.min_auc} by more than "
        f"{noise:.4f} for {count:,} candidates",
    )


def _calibration_gate(
    candidate: Mapping[str, Any], published: Mapping[str, Any] | None, settings: GateSettings
) -> Gate:
    """Within bounds, and not much further from 1 than the published ranker's."""
    calibration, (low, high) = _number(candidate["calibration"]), settings.calibration
    passed = low <= calibration <= high
    text = f"{calibration:.3f}, daily.gates.calibration {low} to {high}"
    if published is not None:
        before, noise = _number(published["calibration"]), _noise(candidate, settings)
        allowed = (1 + settings.max_calibration_change) * (1 + noise)
        # A published calibration that is not defined keeps nothing out.
        passed = passed and not _miss(calibration) > _miss(before) * allowed
        text += (
            f"; {before:.3f} published; daily.gates.max_calibration_change "
            f"{settings.max_calibration_change} and {noise:.4f} for {candidate['num_positives']:,} "
            "positives"
        )
    return Gate(name="calibration", passed=passed, text=text)


def _auc_gate(
    candidate: Mapping[str, Any], published: Mapping[str, Any], settings: GateSettings
) -> Gate:
    auc, before = _number(candidate["auc"]), _number(published["auc"])
    count = candidate["num_samples"]
    error = auc_sampling_error(before, published["num_positives"], count)
    noise = settings.sampling_errors * error
    return Gate(
        name="auc",
        # A published model whose AUC is not defined has nothing that could be lost.
        passed=not before - auc > settings.max_auc_drop + noise,
        text=f"{auc:.4f} against {before:.4f} published, on {count:,} candidates; "
        f"daily.gates.max_auc_drop {settings.max_auc_drop} and {noise:.4f} for their number",
    )


def _log_loss_gate(
    candidate: Mapping[str, Any], published: Mapping[str, Any], settings: GateSettings
) -> Gate:
    loss, before = _number(candidate["log_loss"]), _number(published["log_loss"])
    noise = _noise(candidate, settings)
    return Gate(
        name="log_loss",
        passed=not loss > before * (1 + settings.max_log_loss_rise + noise),
        text=f"{loss:.4f} against {before:.4f} published; daily.gates.max_log_loss_rise "
        f"{settings.max_log_loss_rise} and {noise:.4f} for {candidate['num_positives']:,} "
        "positives",
    )


def _noise(candidate: Mapping[str, Any], settings: GateSettings) -> float:
    """Allowed sampling errors of the number of positives, over that number."""
    count, positives = candidate["num_samples"], candidate["num_positives"]
    return settings.sampling_errors * math.sqrt((1 - positives / count) / positives)


def _miss(calibration: float) -> float:
    """The factor by which it is off 1, up or down."""
    return max(calibration, 1 / calibration) if calibration > 0 else math.inf


def progressive_gate(auc: float, before: Sequence[float], settings: GateSettings) -> Gate:
    """The ranker that served on days now final, against what it and others had on days before.

    Days on which a model that was good is suddenly bad are strange days.
    """
    usual = sum(before) / len(before)
    return Gate(
        name="progressive",
        passed=usual - auc <= settings.max_progressive_drop,
        text=f"ranker that served at {auc:.4f}, {usual:.4f} on {len(before)} days before; "
        f"daily.gates.max_progressive_drop {settings.max_progressive_drop}",
    )


def table_figures(export: Path, before: Path | None) -> list[TableFigures]:
    """Whether all rows of every table are numbers; norms and drift of rows that both have.

    The day's export is read once from beginning to end, a file at a time; norm and drift are of
    evenly spaced rows.

    Raises:
        ExportError: one of them is not whole.
    """
    now = read_export(export).tables
    old = read_export(before).tables if before is not None else {}
    figures: list[TableFigures] = []
    for name, table in now.items():
        same_width = name in old and old[name].dim == table.dim
        common = min(table.num_rows, old[name].num_rows) if same_width else table.num_rows
        rows = range(0, common, max(1, common // _SAMPLE_ROWS))
        new = _rows(export, table, rows)
        was = _rows(before, old[name], rows) if before is not None and same_width else None
        norm = float(new.norm(dim=1).mean())
        norm_before = float(was.norm(dim=1).mean()) if was is not None else math.nan
        moved = float((new - was).norm(dim=1).mean()) if was is not None else math.nan
        drift = moved / norm_before if norm_before else math.inf
        figures.append(
            TableFigures(
                name=name,
                is_finite=_is_finite(export, table),
                norm=norm,
                norm_before=norm_before,
                drift=drift,
            )
        )
    return figures


def table_gates(figures: Iterable[TableFigures], settings: GateSettings) -> Iterator[Gate]:
    """Of all tables together."""
    found = list(figures)
    yield Gate(
        name="finite",
        passed=all(table.is_finite and math.isfinite(table.norm) for table in found),
        text=f"norms of tables: {', '.join(_finite_text(table) for table in found)}",
    )
    known = [table for table in found if not math.isnan(table.norm_before)]
    if not known:
        return
    yield Gate(
        name="table_norm",
        passed=all(t.norm <= settings.max_norm_ratio * t.norm_before for t in known),
        text=", ".join(f"{t.name} {t.norm:.3f} was {t.norm_before:.3f}" for t in known)
        + f"; daily.gates.max_norm_ratio {settings.max_norm_ratio}",
    )
    yield Gate(
        name="table_drift",
        passed=all(t.drift <= settings.max_table_drift for t in known),
        text=", ".join(f"{t.name} {t.drift:.3f}" for t in known)
        + f"; daily.gates.max_table_drift {settings.max_table_drift}",
    )


def _finite_text(table: TableFigures) -> str:
    what = "" if table.is_finite else " (some of its values are NaN or infinite)"
    return f"{table.name} {table.norm:.3g}{what}"


def _is_finite(folder: Path, table: ExportedTable) -> bool:
    """Whether the smallest and the largest value of each file are numbers, which NaN is not."""
    for file in table.files:
        with safe_open(folder / file.name, framework="pt") as opened:
            ends = torch.stack(torch.aminmax(opened.get_tensor(TENSOR_NAME)))
        if not ends.isfinite().all():
            return False
    return True


def _rows(folder: Path, table: ExportedTable, rows: range) -> torch.Tensor:
    """(len(rows), D) float32, whatever rectangles the table is in."""
    found = torch.zeros(len(rows), table.dim)
    for file in table.files:
        wanted = [i for i, row in enumerate(rows) if file.rows[0] <= row < file.rows[1]]
        if not wanted:
            continue
        with safe_open(folder / file.name, framework="pt") as opened:
            values = opened.get_tensor(TENSOR_NAME)
            local = torch.tensor([rows[i] - file.rows[0] for i in wanted])
            found[wanted, file.columns[0] : file.columns[1]] = values[local].float()
    return found


def _number(value: float | None) -> float:
    """JSON has null for NaN."""
    return math.nan if value is None else value
