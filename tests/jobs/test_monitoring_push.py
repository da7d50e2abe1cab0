"""A stage's figures on their way: what they say, to a gateway, into a textfile, and to nowhere."""

import json
import math
import socket
import threading
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embeddings.export import export_tables
from embeddings.settings import EmbeddingSettings
from jobs.metrics import RankingResult
from jobs.monitoring import push
from jobs.monitoring.facts import (
    StageFacts,
    with_data,
    with_export,
    with_result,
    with_training,
)
from jobs.monitoring.push import publish_metrics, textfile_path
from jobs.monitoring.settings import MonitoringSettings
from jobs.settings import JobSettings
from pipeline.data_checks import DataCheckSettings
from pipeline.data_profile import DayProfile
from pipeline.data_report import EventsReport, check_requests, write_report
from pipeline.errors import ConfigError
from pipeline.settings import load_settings
from tests.embeddings.small_model import DIM, ROWS, plain_model
from tests.jobs.small_shop import CONFIG

DAY = date(2024, 5, 10)
STARTED = datetime(2024, 5, 11, 3, tzinfo=UTC)
DAY_S = datetime(2024, 5, 10, tzinfo=UTC).timestamp()


def facts(state="succeeded", **more):
    ended = None if state == "running" else STARTED + timedelta(seconds=90)
    return StageFacts(state=state, data_day=DAY, started=STARTED, ended=ended, **more)


def told(stage_facts, stage="rank", task="ctr"):
    """Metric and task -> value."""
    samples = stage_facts.samples(stage, task)
    return {(s.metric.name.removeprefix("frostrank_"), s.labels[1]): s.value for s in samples}


def test_a_success_tells_its_day_and_when_it_was():
    assert told(facts(auc=0.75, attempts=2)) == {
        ("run_state", "ctr"): 2,
        ("run_attempts", "ctr"): 2,
        ("run_start_timestamp_seconds", "ctr"): STARTED.timestamp(),
        ("run_end_timestamp_seconds", "ctr"): STARTED.timestamp() + 90,
        ("run_duration_seconds", "ctr"): 90,
        ("run_day_timestamp_seconds", "ctr"): DAY_S,
        ("last_success_timestamp_seconds", "ctr"): STARTED.timestamp() + 90,
        ("data_day_timestamp_seconds", "ctr"): DAY_S,
        ("auc", "ctr"): 0.75,
    }


@pytest.mark.parametrize(("state", "code"), [("running", 1), ("failed", 3), ("rejected", 4)])
def test_only_a_success_moves_the_day(state, code):
    values = told(facts(state))
    assert values["run_state", "ctr"] == code
    assert values["run_day_timestamp_seconds", "ctr"] == DAY_S
    assert ("data_day_timestamp_seconds", "ctr") not in values
    assert ("last_success_timestamp_seconds", "ctr") not in values
    assert (("run_duration_seconds", "ctr") in values) == (state != "running")


def test_gates_are_a_metric_each():
    values = told(facts("rejected", gates={"auc": False, "finite": True}), "gate")
    assert values["gate_auc_passed", "ctr"] == 0
    assert values["gate_finite_passed", "ctr"] == 1
    with pytest.raises(AssertionError, match="speed"):
        told(facts(gates={"speed": True}))


def test_label_rates_are_told_of_each_task():
    values = told(facts(event_rows=10, label_ratios={"ctr": 0.1, "cvr": 0.2}), "prepare", "")
    assert values["event_rows", ""] == 10
    assert values["label_ratio", "ctr"] == 0.1
    assert values["label_ratio", "cvr"] == 0.2


def test_an_undefined_auc_is_told_as_such():
    assert math.isnan(told(facts(auc=math.nan))["auc", "ctr"])


def test_the_data_report_is_told(tmp_path):
    events = EventsReport(
        day=DAY,
        published=True,
        violations=(),
        rows_in=110,
        set_aside={"no user": 4, "bad time": 6},
        events=DayProfile(rows=100),
        source=(),
        earlier=None,
    )
    write_report(tmp_path, "events", events)
    counts = {"requests": 10, "candidates": 40, "new_item_candidates": 10}
    labels = {"label_ctr_applies": 40, "label_ctr_positives": 4, "label_cvr_applies": 0}
    counts |= labels | {"label_cvr_positives": 0}
    check_requests(tmp_path, DAY, counts, None, DataCheckSettings())
    found = with_data(facts(), tmp_path)
    assert (found.event_rows, found.set_aside_rows) == (100, 10)
    assert (found.request_rows, found.candidate_rows) == (10, 40)
    assert found.new_item_ratio == 0.25
    assert found.label_ratios == {"ctr": 0.1}


def test_a_label_rate_is_of_the_newest_day_that_has_labels(tmp_path):
    for day, applies in ((8, 40), (9, 20), (10, 0), (11, 1)):
        counts = {
            "requests": 10,
            "label_cvr_applies": applies,
            "label_cvr_positives": applies // (day - 5),
        }
        counts |= {"label_ctr_applies": 100, "label_ctr_positives": day}
        check_requests(tmp_path, DAY.replace(day=day), counts, None, DataCheckSettings())
    assert with_data(facts(), tmp_path).label_ratios == {"ctr": 0.1, "cvr": 0.25}


def test_without_a_report_there_is_nothing_to_tell(tmp_path):
    assert with_data(facts(), tmp_path) == facts()


def test_a_run_tells_its_checkpoint_also_where_it_did_not_finish(tmp_path):
    assert with_training(facts(), tmp_path) == facts()
    for step, size in ((3, 1), (7, 7)):
        checkpoint = tmp_path / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "a.distcp").write_bytes(b"x" * size)
    assert with_training(facts(), tmp_path) == facts(checkpoint_bytes=7)
    result = {"steps": 8, "samples": 800, "train_seconds": 4.0}
    (tmp_path / "result.json").write_text(json.dumps(result))
    found = with_training(facts(), tmp_path)
    assert (found.run_steps, found.run_samples, found.run_training_seconds) == (8, 800, 4.0)
    assert found.table_rows is None


def test_a_run_that_goes_on_tells_how_its_tables_grew(tmp_path):
    tables = {
        "item_id": {"rows_before": 90, "rows": 100, "capacity": 128},
        "category": {"rows_before": 7, "rows": 7, "capacity": 8},
    }
    result = {"steps": 8, "samples": 800, "train_seconds": 4.0}
    continued = {**result, "continued_from": {"day": "2024-05-09", "tables": tables}}
    (tmp_path / "result.json").write_text(json.dumps(continued))
    found = with_training(facts(), tmp_path)
    assert (found.table_rows, found.table_known_rows, found.table_new_rows) == (136, 107, 10)
    (tmp_path / "result.json").write_text(json.dumps({**result, "continued_from": None}))
    assert with_training(facts(), tmp_path).table_rows is None


def test_an_export_tells_the_size_of_its_tables(tmp_path):
    manifest = export_tables(plain_model(EmbeddingSettings(optimizer="adagrad")), tmp_path, {})
    found = with_export(facts(), tmp_path)
    assert (found.export_tables, found.table_rows) == (len(ROWS), sum(ROWS.values()))
    assert found.table_bytes == sum(ROWS.values()) * DIM * 4
    files = [file for table in manifest.tables.values() for file in table.files]
    assert found.export_bytes == sum((tmp_path / f.name).stat().st_size for f in files)
    assert found.export_bytes > found.table_bytes


def result_of(auc):
    return RankingResult(
        auc=auc,
        auc_error=0.0,
        log_loss=0.5,
        normalized_entropy=0.9,
        calibration=1.1,
        num_samples=100,
        num_positives=10,
    )


def test_a_candidate_is_told_beside_the_published_model():
    found = with_result(facts(), result_of(0.8), result_of(0.7))
    assert (found.auc, found.published_auc) == (0.8, 0.7)
    assert (found.calibration_ratio, found.evaluated_rows) == (1.1, 100)
    assert with_result(facts(), result_of(0.8)).published_auc is None


class Gateway(ThreadingHTTPServer):
    """Remembers what it was told; answers with one status."""

    daemon_threads = True

    def __init__(self, status):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.told = status, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.told.append((self.path, body))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"inconsistent metrics\n")

    def log_message(self, *arguments):
        pass


@contextmanager
def gateway(status=200):
    with Gateway(status) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_a_stage_is_pushed_under_its_stage_and_task_and_never_its_day(capsys):
    with gateway() as server:
        publish_metrics(MonitoringSettings(pushgateway=server.url), "rank", "ctr", facts(auc=0.75))
    ((path, body),) = server.told
    assert path == "/metrics/job/frostrank/stage/rank/task/ctr"
    assert 'frostrank_auc{stage="rank",task="ctr"} 0.75' in body.splitlines()
    assert capsys.readouterr().out == ""


def test_label_rates_are_groups_of_their_tasks():
    with gateway() as server:
        settings = MonitoringSettings(pushgateway=server.url)
        publish_metrics(settings, "prepare", "", facts(event_rows=7, label_ratios={"ctr": 0.1}))
    (whole, whole_body), (ctr, ctr_body) = server.told
    # An empty value has no place in a path, but as base64.
    assert whole == "/metrics/job/frostrank/stage/prepare/task@base64/="
    assert ctr == "/metrics/job/frostrank/stage/prepare/task/ctr"
    assert "frostrank_event_rows" in whole_body
    assert "frostrank_label_ratio" not in whole_body
    assert {line.partition("{")[0] for line in ctr_body.splitlines() if line[0] != "#"} == {
        "frostrank_label_ratio"
    }


def one_line(capsys):
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: metrics were not handed to ")
    assert line.endswith("; the job goes on")
    return line


def test_a_gateway_that_is_down_is_one_line(capsys):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    publish_metrics(
        MonitoringSettings(pushgateway=url), "prepare", "", facts(label_ratios={"a": 1})
    )
    assert url in (line := one_line(capsys))
    assert "Connection refused" in line


def test_a_gateway_that_refuses_is_quoted(capsys):
    with gateway(status=400) as server:
        publish_metrics(MonitoringSettings(pushgateway=server.url), "rank", "ctr", facts())
    assert "inconsistent metrics" in one_line(capsys)


def test_a_gateway_that_does_not_answer_is_not_waited_for(capsys, monkeypatch):
    monkeypatch.setattr(push, "_PATIENCE_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        publish_metrics(MonitoringSettings(pushgateway=url), "rank", "ctr", facts())
        line = one_line(capsys)
    assert "no answer within" in line or "timed out" in line


def test_a_gateway_that_answers_without_end_is_not_waited_for(capsys, monkeypatch):
    """A byte now and then keeps a connection alive, here for 20 s."""
    left = threading.Event()

    def drip(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        num_bytes = 0
        while not left.wait(0.05) and num_bytes < 400:
            num_bytes += handler.wfile.write(b"X")

    monkeypatch.setattr(push, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(Handler, "do_POST", drip)
    with gateway() as server:
        settings = MonitoringSettings(pushgateway=server.url)
        publish_metrics(settings, "rank", "ctr", facts())
        line = one_line(capsys)
        left.set()
    assert "no answer within" in line


def read(path):
    families = text_string_to_metric_families(path.read_text())
    return {s.name.removeprefix("frostrank_"): s.value for f in families for s in f.samples}


def test_a_textfile_keeps_the_last_success_when_the_next_run_fails(tmp_path):
    settings = MonitoringSettings(textfile=tmp_path)
    publish_metrics(settings, "rank", "ctr", facts(auc=0.75))
    later = STARTED + timedelta(days=1)
    failed = StageFacts(
        state="failed",
        data_day=DAY + timedelta(days=1),
        started=later,
        ended=later + timedelta(seconds=5),
    )
    publish_metrics(settings, "rank", "ctr", failed)
    assert list(tmp_path.iterdir()) == [tmp_path / "frostrank-rank-ctr.prom"]
    values = read(tmp_path / "frostrank-rank-ctr.prom")
    assert values["run_state"] == 3
    assert values["run_duration_seconds"] == 5
    assert values["data_day_timestamp_seconds"] == DAY_S
    assert values["run_day_timestamp_seconds"] == DAY_S + 86_400
    assert values["auc"] == 0.75


def test_stages_and_tasks_have_a_textfile_each(tmp_path):
    settings = MonitoringSettings(textfile=tmp_path)
    publish_metrics(settings, "prepare", "", facts(label_ratios={"ctr": 0.1}))
    publish_metrics(settings, "rank", "ctr", facts())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"frostrank-{n}.prom" for n in ("prepare", "prepare-ctr", "rank-ctr")}


@pytest.mark.parametrize("left", [b"half a li", b'frostrank_auc{stage="ra', b"\xff\xfe"])
def test_a_damaged_textfile_is_replaced_and_told(tmp_path, capsys, left):
    path = textfile_path(tmp_path, "rank", "ctr")
    path.write_bytes(left)
    publish_metrics(MonitoringSettings(textfile=tmp_path), "rank", "ctr", facts(auc=0.75))
    assert read(path)["auc"] == 0.75
    assert f"warning: {path}: not a file of metrics" in capsys.readouterr().out


def test_metrics_that_are_none_any_more_leave_the_textfile(tmp_path):
    path = textfile_path(tmp_path, "rank", "ctr")
    path.write_text('frostrank_old{stage="rank",task="ctr"} 1\nfrostrank_auc{task="ctr"} 1\n')
    publish_metrics(MonitoringSettings(textfile=tmp_path), "rank", "ctr", facts())
    assert not {"old", "auc"} & read(path).keys()


def test_a_textfile_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    folder = tmp_path / "nowhere"
    settings = MonitoringSettings(textfile=folder)
    publish_metrics(settings, "prepare", "", facts(label_ratios={"ctr": 0.1}))
    assert str(folder) in one_line(capsys)


def test_nothing_is_told_unless_asked_for(capsys):
    publish_metrics(MonitoringSettings(), "rank", "ctr", facts())
    assert capsys.readouterr().out == ""


def test_the_section_of_a_config(tmp_path):
    config = tmp_path / "config.toml"
    section = '\n[monitoring]\nport = 9410\npushgateway = "http://localhost:9091"\n'
    config.write_text(CONFIG.format(folder=tmp_path) + section)
    read_settings = load_settings(JobSettings, config).monitoring
    assert (read_settings.port, read_settings.pushgateway) == (9410, "http://localhost:9091")
    with pytest.raises(ConfigError, match=r"monitoring.pushgateway: 'localhost:9091' is no URL"):
        load_settings(JobSettings, config, ["monitoring.pushgateway=localhost:9091"])
    with pytest.raises(ConfigError, match=r"monitoring.port"):
        load_settings(JobSettings, config, ["monitoring.port=70000"])
