"""The report's charts: SVG text to put into a page, made by matplotlib without a display.

Text and grid take the page's colours (`currentColor`, `var(--line)`), so that one chart serves
light, dark and print. A strategy has one colour, marker and dash everywhere: dashed where tables
keep changing, solid where they are frozen, so that no reader depends on colour. The colours are
Okabe and Ito's, told apart by colour-blind readers.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.run_records import RunRecord, number

__all__ = ["LOOKS", "OTHER_LOOKS", "STYLE", "auc_charts", "new_axes", "pretraining_chart", "svg"]

Curve = tuple[list[float], list[float]]

# Stand-ins that no chart uses otherwise; replaced in the SVG text.
_TEXT, _GRID = "#010203", "#040506"
_MAX_POINTS = 80


class _Look(NamedTuple):
    color: str
    dash: str
    marker: str


LOOKS = {
    "NT": _Look("#d55e00", ":", "v"),
    "FT": _Look("#e69f00", "--", "s"),
    "ST": _Look("#cc79a7", "--", "D"),
    "FT&SF": _Look("#56b4e9", "-", "o"),
    "ST&SF": _Look("#0072b2", "-", "^"),
}
OTHER_LOOKS = (
    _Look(_TEXT, "-", ""),
    _Look("#009e73", "--", ""),
    _Look("#b07aa1", "-.", ""),
    _Look("#9c755f", ":", ""),
)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _GRID,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "grid.color": _GRID,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
}


def auc_charts(runs: Sequence[RunRecord]) -> tuple[str, str]:
    """Validation AUC and training AUC by epoch, one curve a run, on the same scale."""
    validation = {run.name: _curve(run.lines("evaluation"), "auc") for run in runs}
    training = {run.name: _thinned(_curve(run.lines("train"), "auc")) for run in runs}
    limits = _limits(validation, training)
    charts = (
        ("Validation AUC", "AUC, validation days", validation),
        ("Training AUC", "AUC of each batch before learning it", training),
    )
    first, second = (_auc_chart(title, label, curves, limits) for title, label, curves in charts)
    return first, second


def pretraining_chart(run: RunRecord) -> str:
    """Losses of pretraining by epoch: one curve for each predicted feature."""
    lines = run.lines("train")
    names = list(lines[0].get("losses") or {}) if lines else []
    with mpl.rc_context(STYLE):
        figure, axes = new_axes("Pretraining loss", "loss per predicted event, nats")
        for place, name in enumerate(names):
            values = [{**line, "loss": line["losses"].get(name)} for line in lines]
            look = OTHER_LOOKS[place % len(OTHER_LOOKS)]
            epochs, losses = _thinned(_curve(values, "loss"))
            axes.plot(epochs, losses, color=look.color, linestyle=look.dash, label=name)
        _mark_epochs(axes)
        _add_legend(figure, axes)
        return svg(figure, "Pretraining loss by epoch")


def _auc_chart(
    title: str, label: str, curves: Mapping[str, Curve], limits: tuple[float, float]
) -> str:
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(title, label)
        for place, (name, (epochs, aucs)) in enumerate(curves.items()):
            look = LOOKS.get(name, OTHER_LOOKS[place % len(OTHER_LOOKS)])
            axes.plot(
                epochs,
                aucs,
                color=look.color,
                linestyle=look.dash,
                marker=look.marker,
                markevery=max(1, len(epochs) // 12),
                label=name,
            )
        axes.set_ylim(limits)
        _mark_epochs(axes)
        _add_legend(figure, axes)
        return svg(figure, f"{title} by epoch, one curve for each strategy")


def new_axes(title: str, label: str) -> tuple[Figure, Axes]:
    """An empty chart in the look of all charts."""
    figure = Figure(figsize=(5.4, 4.1), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.grid(axis="y", linewidth=0.5)
    return figure, axes


def _mark_epochs(axes: Axes) -> None:
    """A vertical line and a tick at each epoch's end; few enough ticks to read."""
    drawn = [np.asarray(line.get_xdata()) for line in axes.lines]
    last = math.ceil(max((float(epochs[-1]) for epochs in drawn if len(epochs)), default=1.0))
    for epoch in range(1, last):
        axes.axvline(epoch, color=_GRID, linewidth=0.8, zorder=0)
    # A little beyond, so that markers at the end are whole.
    axes.set_xlim(0, 1.02 * last)
    axes.set_xticks(range(0, last + 1, max(1, last // 10)))
    axes.set_xlabel("epoch (vertical lines: an epoch ends)")


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(labels),
            handlelength=2.2,
            columnspacing=1.2,
        )


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Epochs and values of the lines that have the value."""
    points = [(float(line["epoch"]), number(line.get(name))) for line in lines]
    kept = [point for point in points if not math.isnan(point[1])]
    return [epoch for epoch, _ in kept], [value for _, value in kept]


def _thinned(curve: Curve) -> Curve:
    """At most `_MAX_POINTS` points, each the mean of neighbours."""
    epochs, values = (np.asarray(part) for part in curve)
    if len(epochs) <= _MAX_POINTS:
        return curve
    parts = zip(*(np.array_split(part, _MAX_POINTS) for part in (epochs, values)), strict=True)
    means = [(float(epoch[-1]), float(value.mean())) for epoch, value in parts]
    return [epoch for epoch, _ in means], [value for _, value in means]


def _limits(validation: Mapping[str, Curve], training: Mapping[str, Curve]) -> tuple[float, float]:
    """One AUC axis for both charts; training's first half epoch may start below it."""
    shown = [auc for _, aucs in validation.values() for auc in aucs]
    shown += [
        auc
        for curve in training.values()
        for epoch, auc in zip(*curve, strict=True)
        if epoch >= 0.5
    ]
    low, high = min(shown, default=0.5), max(shown, default=1.0)
    pad = max(0.005, 0.05 * (high - low))
    return low - pad, min(1.0, high + pad)


def svg(figure: Figure, description: str) -> str:
    """The figure as an `svg` element for an HTML page: no XML header, no addresses, no ids."""
    text = io.StringIO()
    # One salt a chart keeps the ids of several charts in one page apart, and the page the same
    # for the same figures.
    with mpl.rc_context({"svg.hashsalt": description}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    return svg.replace(_TEXT, "currentColor").replace(_GRID, "var(--line)")
