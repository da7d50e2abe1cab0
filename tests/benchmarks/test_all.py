"""All speed benchmarks, small: they run, and what they write has its floor."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.__main__ import PARTS
from benchmarks.floor import work
from benchmarks.processes import environment
from benchmarks.synthetic import MAX_LENGTH, NUM_CATEGORIES, Case, draw_all, num_tokens
from benchmarks.training import cases, name_of
from models.architecture import Architecture


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("part", [part for part in PARTS if part != "gpu"])
def test_part_runs_and_its_figures_have_their_floor(part, tmp_path):
    path = tmp_path / "figures.json"
    command = ["--size", "smoke", "--parts", part, "--json", str(path)]
    subprocess.run([sys.executable, "-m", "benchmarks", *command], check=True)
    found = json.loads(path.read_text())
    assert found["size"] == "smoke"
    results = found[part]["bare" if part == "whole_program" else "results"]
    assert results
    for result in results:
        floor = "floor_seconds" if part == "reader" else "floor_ms"
        assert result[floor] > 0
    if part == "freezing":
        names = [f"{number} x {kind}" for number in (1, 2) for kind in ("trained", "frozen")]
        assert set(names) < {result["name"] for result in results}


def test_a_table_of_ten_million_rows_on_two_processes_is_a_case():
    large = [case for case in cases() if (case.num_items, case.processes) == (10_000_000, 2)]
    assert {case.frozen for case in large} == {False, True}
    names = [name_of(case) for case in cases()]
    assert len(names) == len(set(names))


def test_work_of_a_step_by_hand(rng):
    """Two rows of 50 events: one layer of width 32, 8 negatives, float32."""
    case = Case(
        task="pretraining", architecture="L1H32A2", rows=2, full_length=True, num_negatives=8
    )
    found = work(case, Architecture.parse(case.architecture), draw_all(case, rng)[:1])
    layer = 26 * 32**2 * 100 + 4 * 32 * 2 * 50 * 51 / 2
    head = 2 * 98 * 32 * (8 + NUM_CATEGORIES)
    assert found.flops == 3 * (layer + head)
    assert found.num_tokens == 100
    with_tables = work(case, Architecture.parse("L1H32A2"), draw_all(case, rng))
    dense = replace(case, dense_only=True)
    without = work(dense, Architecture.parse("L1H32A2"), draw_all(dense, rng))
    assert with_tables.num_bytes > without.num_bytes


def test_work_on_tables_is_of_looked_up_rows_and_with_adamw_of_all():
    case = Case(task="ranking", architecture="L1H32A2", rows=2, num_items=5_000)
    batches = draw_all(case, np.random.default_rng(0))[:1]
    trained, frozen, whole = (
        work(replace(case, **how), Architecture.parse(case.architecture), batches).num_bytes
        for how in ({}, {"frozen": True}, {"table_optimizer": "adamw"})
    )
    looked_up = (trained - frozen) / 2
    assert 0 < looked_up / (4 * 32) <= 2 * MAX_LENGTH + 4 + NUM_CATEGORIES
    assert whole - frozen == 7 * 4 * 32 * (5_000 + NUM_CATEGORIES) - looked_up


def test_tokens_are_events_and_candidates(rng):
    case = Case(task="ranking", architecture="L1H32A2", rows=3, full_length=True, candidates=4)
    assert [num_tokens(batch) for batch in draw_all(case, rng)] == 8 * [3 * (50 + 4)]


def test_a_benchmark_of_the_processor_sees_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert environment("cpu")["CUDA_VISIBLE_DEVICES"] == ""
    assert environment("cuda")["CUDA_VISIBLE_DEVICES"] == "0,1"
