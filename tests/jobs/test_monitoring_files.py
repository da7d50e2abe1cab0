"""Rules, alerts, dashboard and docs, read as files: they speak of metrics that there are."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from jobs.monitoring.metrics import GATES, METRICS, RUN_STATES, STAGES
from jobs.monitoring.push import JOB
from jobs.monitoring.settings import MonitoringSettings

ROOT = Path(__file__).parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
DOCS = ROOT / "docs" / "monitoring.md"


def load(name):
    return yaml.safe_load((PROMETHEUS / name).read_text())


def rules(name):
    return [rule for group in load(name)["groups"] for rule in group["rules"]]


RECORDED = {rule["record"] for rule in rules("recording.rules.yml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.rules.yml")}
BOARD = json.loads((GRAFANA / "frostrank.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    **{rule["record"]: rule["expr"] for rule in rules("recording.rules.yml")},
    **{name: rule["expr"] for name, rule in ALERTS.items()},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in PANELS
        for target in panel["targets"]
    },
}
# All metrics of gates at once.
ANY_GATE = '{__name__=~"frostrank_gate_.+_passed"'


def unknown_names(expression):
    """Metrics of ours that an expression names though there are none of that name."""
    expression = expression.replace(ANY_GATE, "{").replace('"frostrank_gate_(.+)_passed"', '""')
    expression = re.sub(r'job(=~?)"[^"]*"', "", expression)
    recorded = set(re.findall(r"\b[a-z_]+:[a-z0-9_:]+", expression))
    plain = set(re.findall(r"(?<![:\w])frostrank_\w+(?![:\w])", expression))
    return {name for name in plain if base_name(name) not in METRICS} | (recorded - RECORDED)


def base_name(name):
    """Of a histogram's series, the histogram."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if base in METRICS and METRICS[base].kind == "histogram" else name


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_name_metrics_that_there_are(name):
    assert unknown_names(EXPRESSIONS[name]) == set()


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ("rate(frostrank_training_setps_total[5m])", {"frostrank_training_setps_total"}),
        ("frostrank_auc_sum", {"frostrank_auc_sum"}),
        ("task:frostrank_auc:max - 1", {"task:frostrank_auc:max"}),
        ("sum(frostrank_training_step_seconds_bucket) / task:frostrank_test_auc:max", set()),
        ('push_time_seconds{job="frostrank"}', set()),
    ],
)
def test_a_name_that_is_none_is_found(expression, unknown):
    assert unknown_names(expression) == unknown


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_select_stages_that_there_are(name):
    stages = re.findall(r'stage=~?"([^"]*)"', EXPRESSIONS[name])
    assert {part for stage in stages for part in stage.split("|")} <= set(STAGES)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_on_the_dashboard(metric):
    gate = re.fullmatch("frostrank_gate_(.+)_passed", metric)
    wanted = ANY_GATE if gate and gate[1] in GATES else metric
    shown = [target["expr"] for panel in PANELS for target in panel["targets"]]
    through = {rule["record"]: rule["expr"] for rule in rules("recording.rules.yml")}
    recorded = [expr for name, expr in through.items() if any(name in text for text in shown)]
    recorded += [expr for name, expr in through.items() if any(name in text for text in recorded)]
    assert any(wanted in text for text in shown + recorded)


def test_the_dashboard_is_what_its_code_builds(monkeypatch):
    names = [path.stem for path in GRAFANA.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(GRAFANA))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    try:
        built = __import__("build").dashboard()
    finally:
        for name in names:
            sys.modules.pop(name, None)
    assert built == BOARD


def test_panels_have_titles_of_their_own_and_do_not_overlap():
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_and_the_alerts_read_run_states_as_they_are():
    (panel,) = [panel for panel in PANELS if panel["title"] == "Stages"]
    options = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    assert {shown["text"]: int(code) for code, shown in options.items()} == RUN_STATES
    for alert, state in (("FrostrankStageFailed", "failed"), ("FrostrankDayRejected", "rejected")):
        assert ALERTS[alert]["expr"].endswith(f"== {RUN_STATES[state]}")
    for alert in ("FrostrankStageTooLong", "FrostrankTrainingStalled"):
        running = f"(frostrank_run_state) == {RUN_STATES['running']}"
        assert running in ALERTS[alert]["expr"]


def alerts_that(kind):
    """Alerts whose unit tests say that they fire, or that they do not."""
    return {
        case["alertname"]
        for path in PROMETHEUS.glob("*.test.yml")
        for test in load(path.name)["tests"]
        for case in test["alert_rule_test"]
        if bool(case["exp_alerts"]) == (kind == "fires")
    }


@pytest.mark.parametrize("kind", ["fires", "does not fire"])
def test_every_alert_has_a_unit_test_of_each_kind(kind):
    assert alerts_that(kind) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_bad_it_is_and_what_to_do(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert ROOT / path == DOCS
    assert anchor == name.lower()
    assert re.search(rf"^### {name}$", DOCS.read_text(), re.MULTILINE)


def test_the_page_has_every_metric_gate_and_setting_and_no_other():
    text = DOCS.read_text()
    rows = set(re.findall(r"^\| `(frostrank_\w+)`", text, re.MULTILINE))
    assert rows == {m for m in METRICS if not m.startswith("frostrank_gate_")}
    gates = text.partition("| gate |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", gates, re.MULTILINE)) == set(GATES)
    for name in MonitoringSettings.model_fields:
        assert re.search(rf"^{name} = ", text, re.MULTILINE), name


def test_prometheus_keeps_the_labels_of_what_is_pushed_and_asks_the_ports_of_training():
    scraped = {job["job_name"]: job for job in load("prometheus.yml")["scrape_configs"]}
    assert scraped["pushgateway"]["honor_labels"] is True
    (targets,) = load("targets/training.yml")
    ports = {int(target.partition(":")[2]) for target in targets["targets"]}
    assert len(ports) == MonitoringSettings().num_ports
    assert f"\nport = {min(ports)} " in DOCS.read_text()


def test_alerts_of_pushes_know_the_job_by_its_name():
    assert f'job="{JOB}"' in ALERTS["FrostrankPushRefused"]["expr"]
