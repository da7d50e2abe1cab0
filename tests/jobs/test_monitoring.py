"""Names of metrics, what a registry shows, and what training shows while it goes on."""

import ast
import re
import socket
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from urllib.request import ProxyHandler, build_opener

import pytest
import torch
from prometheus_client import generate_latest

from jobs.loop import StepReport
from jobs.monitoring.facts import StageFacts
from jobs.monitoring.hook import MonitoringHook, num_tokens
from jobs.monitoring.metrics import (
    GATES,
    METRICS,
    STAGE_METRICS,
    STEP_BUCKETS_S,
    TRAINING_METRICS,
    Histogram,
    Sample,
    Shown,
    registry_of,
)
from jobs.monitoring.settings import MonitoringSettings
from pipeline.batches import RankingBatch, SequenceBatch

ROOT = Path(__file__).parents[2]
NOT_BASE_UNITS = r"_(ms|us|ns|minutes|hours|days|kb|mb|gb|percent|kib|mib)(_|$)"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_follow_the_conventions(metric):
    assert re.fullmatch(r"frostrank(_[a-z0-9]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(NOT_BASE_UNITS, metric.name)
    assert not re.search(r"_(count|sum|bucket|created)$", metric.name)
    assert set(metric.labels) <= {"stage", "task", "rank"}
    assert metric.text.endswith(".")


def test_no_name_is_used_twice():
    assert len(METRICS) == len(TRAINING_METRICS) + len(STAGE_METRICS)
    assert not TRAINING_METRICS.keys() & STAGE_METRICS.keys()


def test_no_other_module_names_a_metric():
    named = {
        (path.name, node.value)
        for path in (ROOT / "jobs").glob("*.py")
        if path.name != "monitoring.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"frostrank_\w+", node.value)
    }
    assert named == set()


def test_facts_are_the_metrics_of_stages():
    told_otherwise = {
        *(
            "state",
            "data_day",
            "started",
            "ended",
            "attempts",
            "label_ratios",
            "gates",
            "serving_day",
        ),
    }
    derived = {name for name in STAGE_METRICS if name.startswith(("run_", "gate_"))} - {
        *("run_steps", "run_samples", "run_training_seconds"),
    }
    derived |= {"label_ratio", "last_success_timestamp_seconds", "data_day_timestamp_seconds"}
    derived |= {"serving_day_timestamp_seconds"}
    names = {f.name for f in fields(StageFacts)}
    assert names - told_otherwise == STAGE_METRICS.keys() - derived
    assert {f"gate_{gate}_passed" for gate in GATES} <= STAGE_METRICS.keys()


def text_of(*samples):
    shown = Shown()
    shown.show(samples)
    return generate_latest(registry_of(shown)).decode().splitlines()


def test_a_histogram_counts_what_is_up_to_a_bucket():
    counts = [0.0] * (len(STEP_BUCKETS_S) + 1)
    counts[0], counts[2], counts[-1] = 3, 4, 1
    metric = TRAINING_METRICS["training_step_seconds"]
    lines = text_of(Sample(metric, ("rank", "ctr"), Histogram(tuple(counts), 50.0)))
    name = "frostrank_training_step_seconds"
    assert f"# TYPE {name} histogram" in lines
    shown = [
        line.split()[1] for line in lines if line.startswith(f"{name}_bucket") and "rank" in line
    ]
    assert [float(value) for value in shown] == [3, 3] + [7] * (len(STEP_BUCKETS_S) - 2) + [8]
    assert f'{name}_count{{stage="rank",task="ctr"}} 8.0' in lines
    assert f'{name}_sum{{stage="rank",task="ctr"}} 50.0' in lines


def test_a_counter_has_one_series_and_no_time_of_birth():
    metric = TRAINING_METRICS["training_steps_total"]
    lines = [line for line in text_of(Sample(metric, ("pretrain", ""), 7)) if line[0] != "#"]
    assert lines == ['frostrank_training_steps_total{stage="pretrain",task=""} 7.0']


@dataclass
class Ranks:
    """Rank 0 of two; the other one measured `other`, whatever is asked for."""

    other: float = 0.0
    rank: int = 0
    size: int = 2
    is_first: bool = True
    device: str = "cpu"
    summed: list = field(default_factory=list)
    said: list = field(default_factory=list)

    def sum_over_ranks(self, tensor):
        self.summed.append(tensor.tolist())
        tensor += self.other

    def say(self, text):
        self.said.append(text)


def ranking_batch():
    rows = torch.arange
    return RankingBatch(
        history={"item_id": rows(5), "category": rows(5)},
        history_offsets=torch.tensor([0, 5]),
        candidates={"item_id": rows(3), "category": rows(3)},
        candidate_offsets=torch.tensor([0, 3]),
        context={},
        labels=torch.zeros(3),
        weights=torch.ones(3),
        row_ids=rows(1),
    )


def report(seconds, waited_seconds):
    return StepReport(
        losses={"loss": 0.5},
        num_samples=3,
        learning_rate=0.1,
        gradient_norm=1.0,
        batch=ranking_batch(),
        sums=None,
        seconds=seconds,
        waited_seconds=waited_seconds,
    )


def train(hook, world, num_steps, total_steps=100, figures=()):
    measuring = SimpleNamespace(figures=dict(figures))
    for step in range(1, num_steps + 1):
        progress = SimpleNamespace(step=step)
        loop = SimpleNamespace(
            world=world, progress=progress, total_steps=total_steps, hooks=[measuring, hook]
        )
        hook.after_step(loop, report(seconds=0.2 * step, waited_seconds=0.05))


def free_ports(number):
    """The first of so many free ports in a row."""
    while True:
        # One of the others may be taken: those that were not are closed all the same.
        with ExitStack() as servers, suppress(OSError, OverflowError):
            first = servers.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
            port = first.getsockname()[1]
            for n in range(1, number):
                servers.enter_context(closing(socket.create_server(("127.0.0.1", port + n))))
            return port


def scrape(port):
    opener = build_opener(ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def labelled(name, **labels):
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"frostrank_training_{name}{{{inside}}}"


@pytest.fixture
def port():
    return free_ports(3)


def make_hook(port, every_steps=2, **settings):
    return MonitoringHook(MonitoringSettings(port=port, **settings), "rank", "ctr", every_steps)


def test_the_endpoint_shows_what_all_ranks_did(port):
    world, hook = Ranks(other=1.0), make_hook(port)
    train(hook, world, 4, figures={"loss": 0.25, "checkpoints_total": 1, "validation_auc": 0.75})
    shown = scrape(port)
    at = {"stage": "rank", "task": "ctr"}
    # Two sums, to each of which the other rank added 1.
    assert shown[labelled("steps_total", **at)] == 4
    assert shown[labelled("samples_total", **at)] == 4 * 3 + 2
    assert shown[labelled("tokens_total", **at)] == 4 * 8 + 2
    assert shown[labelled("step_seconds_sum", **at)] == pytest.approx(0.2 + 0.4 + 0.6 + 0.8 + 2)
    assert shown[labelled("step_seconds_bucket", le="0.25", **at)] == 1 + 6 * 2
    assert shown[labelled("step_seconds_bucket", le="0.5", **at)] == 2 + 7 * 2
    assert shown[labelled("reader_wait_seconds_total", rank="0", **at)] == pytest.approx(0.2 + 2)
    assert shown[labelled("reader_wait_seconds_total", rank="1", **at)] == 2
    assert shown[labelled("done_ratio", **at)] == 0.04
    assert shown[labelled("ranks", **at)] == 2
    assert shown[labelled("loss", **at)] == 0.25
    assert shown[labelled("validation_auc", **at)] == 0.75
    assert shown[labelled("checkpoints_total", **at)] == 1
    train(hook, world, 1, total_steps=1)


def test_ranks_sum_once_every_so_many_steps_and_at_the_end(port):
    world = Ranks()
    train(make_hook(port, every_steps=3), world, 7, total_steps=7)
    assert len(world.summed) == 3


def test_without_a_port_nothing_is_summed_or_served():
    world = Ranks()
    train(make_hook(0), world, 4, total_steps=4)
    assert world.summed == []
    assert world.said == []


def test_the_other_ranks_sum_and_serve_nothing(port):
    world = Ranks(rank=1, is_first=False)
    train(make_hook(port), world, 2)
    ((*_, waited_0, waited_1),) = world.summed
    assert (waited_0, waited_1) == (0, pytest.approx(0.1))
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_the_endpoint_is_gone_when_training_is(port):
    train(make_hook(port), Ranks(), 4, total_steps=4)
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_a_port_in_use_makes_it_take_the_next(port):
    world, hook = Ranks(), make_hook(port, num_ports=2)
    with closing(socket.create_server(("127.0.0.1", port))):
        train(hook, world, 2)
        assert scrape(port + 1)[labelled("steps_total", stage="rank", task="ctr")] == 2
        train(hook, world, 1, total_steps=1)
    assert world.said == [f"metrics: http://127.0.0.1:{port + 1}/metrics"]


def test_no_port_is_a_line_and_training_goes_on(port):
    world = Ranks()
    with closing(socket.create_server(("127.0.0.1", port))):
        train(make_hook(port, num_ports=1), world, 4, total_steps=4)
    assert len(world.summed) == 2
    (line,) = world.said
    assert line.startswith(f"warning: no metrics are served, as 127.0.0.1, from port {port} on")
    assert "Address already in use" in line
    assert "monitoring.port" in line


def test_an_address_of_another_machine_is_a_line_too(port):
    world = Ranks()
    train(make_hook(port, address="192.0.2.1"), world, 2)
    (line,) = world.said
    assert "192.0.2.1" in line
    assert "monitoring.address" in line


def test_tokens_are_events_of_histories_and_candidates():
    assert num_tokens(ranking_batch()) == 5 + 3
    sequences = SequenceBatch(
        tokens={"item_id": torch.arange(7), "category": torch.arange(7)},
        offsets=torch.tensor([0, 3, 7]),
        row_ids=torch.arange(2),
        weights=torch.ones(2),
    )
    assert num_tokens(sequences) == 7
