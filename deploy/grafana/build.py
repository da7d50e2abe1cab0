# ruff: noqa: INP001 (a script, not a package)
"""The dashboard of the daily chain, built from code: panels -> frostrank.json.

    python deploy/grafana/build.py

Grafana imports frostrank.json, or provisions it from this folder. What the metrics mean is in
docs/monitoring.md. Standard library only.
"""

import json
from pathlib import Path
from typing import Any

from data_tables import DATA, TABLES
from overview import OVERVIEW
from panels import Panel
from training import TRAINING

__all__ = ["ROWS", "TARGET", "dashboard"]

TARGET = Path(__file__).with_name("frostrank.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
HEIGHT = 8

ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview by day": OVERVIEW,
    "Training now": TRAINING,
    "Data": DATA,
    "Tables": TABLES,
}


def dashboard() -> dict[str, Any]:
    """The whole dashboard, as Grafana imports it."""
    return {
        "uid": "frostrank",
        "title": "Frostrank",
        "description": "The daily chain: what is published, what trains, the data, the tables.",
        "tags": ["frostrank"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 38,
        "time": {"from": "now-14d", "to": "now"},
        "timezone": "utc",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": _placed(),
    }


def _variables() -> list[dict[str, Any]]:
    tasks = 'label_values(frostrank_run_state{task!=""}, task)'
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "task",
            "label": "Task",
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": tasks, "refId": "tasks"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        },
    ]


def _placed() -> list[dict[str, Any]]:
    """Panels from left to right, line after line, under the title of their row."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        row = {"id": len(placed) + 1, "type": "row", "title": title, "gridPos": place}
        placed.append({**row, "collapsed": False, "panels": []})
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            place = {"x": x, "y": y, "w": panel.width, "h": HEIGHT}
            placed.append({"id": len(placed) + 1, "gridPos": place, **_panel(panel)})
            x += panel.width
        y += HEIGHT
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    now = panel.kind in ("stat", "bargauge")
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": now,
                "range": not now,
            }
            for number, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.states is not None:
        shown = {
            str(value): {"text": text, "color": color, "index": value}
            for value, (text, color) in panel.states.items()
        }
        return {**defaults, "mappings": [{"type": "value", "options": shown}]}
    if panel.kind == "timeseries":
        style = {"drawStyle": "line", "lineWidth": 1, "showPoints": "auto", "spanNulls": False}
        line = "off" if panel.limit is None else "dashed"
        return {**defaults, "custom": {**style, "thresholdsStyle": {"mode": line}}}
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    newest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "stat":
        return {"reduceOptions": newest, "colorMode": "value", "graphMode": "none"}
    if panel.kind == "bargauge":
        return {"reduceOptions": newest, "orientation": "horizontal", "displayMode": "basic"}
    legend = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
    if panel.kind == "state-timeline":
        return {"legend": legend, "mergeValues": True, "showValue": "auto"}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


if __name__ == "__main__":
    TARGET.write_text(json.dumps(dashboard(), indent=1) + "\n")
