"""Charts of the data report: its figures over the days, in the look of `jobs.charts`.

EventsReport, RequestsReport -> SVG texts -> `data_page`
"""

from collections.abc import Mapping, Sequence
from datetime import date
from math import nan

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from jobs.charts import LOOKS, OTHER_LOOKS, STYLE, new_axes, svg
from jobs.data_figures import (
    Reports,
    Requests,
    action_drift,
    action_share,
    feature_names,
    main_actions,
    task_names,
    value_drift,
)

__all__ = ["day_charts"]

# Name -> a value a day; null where there is none.
Curves = Mapping[str, Sequence[float | None]]

# Days that get a marker each; more would be a thick line.
MARKED_DAYS = 40
LABELLED_DAYS = 6
LEGEND_COLUMNS = 4
# Features with a curve of their own, those that drift most; all are in a table.
SHOWN_FEATURES = 5


def day_charts(events: Reports, requests: Requests) -> list[str]:
    """One SVG for each kind of figure that any day has."""
    days = [report.day for report in events]
    return [
        _day_chart(title, label, days, curves)
        for (title, label), curves in _curves(events, requests).items()
        if any(value is not None for values in curves.values() for value in values)
    ]


def _curves(events: Reports, requests: Requests) -> dict[tuple[str, str], Curves]:
    """(title, label of the axis) -> curves, one value for each day of events."""
    asked = [requests.get(str(report.day)) for report in events]
    drifting = sorted(
        feature_names(events), key=lambda name: _most_drift(events, name), reverse=True
    )
    rates: Curves = {
        task: [report.label_rates.get(task) if report else None for report in asked]
        for task in task_names(requests)
    }
    return {
        ("Events", "rows"): {
            "kept": [report.events.rows for report in events],
            "set aside": [sum(report.set_aside.values()) for report in events],
        },
        ("Users and items", "different ones on the day"): {
            "users": [report.events.users for report in events],
            "items": [report.events.items for report in events],
        },
        ("Action mix", "share of events"): {
            name: [action_share(report, name) for report in events] for name in main_actions(events)
        },
        ("Drift since the earlier day", "divergence, bits"): {
            "actions": [action_drift(report) for report in events],
            **{name: [value_drift(r, name) for r in events] for name in drifting[:SHOWN_FEATURES]},
        },
        ("Label rates and new items", "share"): {
            **rates,
            "new items": [report.new_item_share if report else None for report in asked],
        },
    }


def _most_drift(events: Reports, name: str) -> float:
    return max(value_drift(report, name) or 0.0 for report in events)


def _day_chart(title: str, label: str, days: Sequence[date], curves: Curves) -> str:
    """One SVG: a curve a name over the days, which are spaced by the calendar."""
    looks = [*OTHER_LOOKS, *LOOKS.values()]
    places = [day.toordinal() for day in days]
    # Names are the data's: a dollar in one starts no formula.
    with mpl.rc_context({**STYLE, "text.parse_math": False}):
        figure, axes = new_axes(title, label)
        for number, (name, values) in enumerate(curves.items()):
            look = looks[number % len(looks)]
            axes.plot(
                places,
                np.array([nan if value is None else value for value in values]),
                color=look.color,
                linestyle=look.dash,
                marker=(look.marker or ".") if len(days) <= MARKED_DAYS else "",
                label=name,
            )
        axes.set_ylim(bottom=0)
        # All charts of a page have the same days.
        axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(LABELLED_DAYS, integer=True))
        axes.xaxis.set_major_formatter(lambda place, _: _day_text(place))
        axes.tick_params(axis="x", labelrotation=30)
        columns = min(len(curves), LEGEND_COLUMNS)
        figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
        return svg(figure, f"{title} by day: {', '.join(curves)}")


def _day_text(place: float) -> str:
    return date.fromordinal(int(place)).isoformat() if place >= 1 else ""
