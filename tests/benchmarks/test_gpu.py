"""The GPU benchmark, which takes a CPU too: there it is small, and its figures must agree."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import dense, gpu
from benchmarks.device import best_s, fbgemm_fault, now_s, peak_memory_bytes
from benchmarks.measured import Measured
from benchmarks.synthetic import Case

CPU = torch.device("cpu")
SMALL = ("--device", "cpu", "--architectures", "L1H32A2", "--rows", "8", "--steps", "4")


def figures(tmp_path, *more):
    path = tmp_path / "gpu.json"
    gpu.main([*SMALL, "--items", "5000", *more, "--json", str(path)])
    return json.loads(path.read_text())


def check(result):
    """What is shown of a step must follow from its work, its time and the rates."""
    step_s = result["step_ms"] / 1000
    share = result["flops"] / step_s / result["matmul_flops_per_s"]
    assert result["matmul_share"] == pytest.approx(share)
    assert 0 < share < 1
    assert share <= result["floor_share"] * 1.0001
    assert result["floor_ms"] == pytest.approx(result["floor_share"] * result["step_ms"])
    assert result["peak_memory_bytes"] > 0
    # 26 d^2 operations forward a token, and twice that backward; of a ranking model's only layer a
    # history's tokens have keys and values alone.
    tokens = result["tokens_per_s"] * step_s
    least = 3 * (26 if result["task"] == "pretraining" else 4) * 32**2
    assert result["flops"] > least * tokens
    samples = result["samples_per_s"] * step_s
    assert samples == pytest.approx(8 * (1 if result["task"] == "pretraining" else 10))
    assert tokens > samples


@pytest.mark.integration
@pytest.mark.slow
def test_with_tables(tmp_path, capsys):
    found = figures(tmp_path, "--tasks", "ranking")
    (result,) = found["results"]
    check(result)
    assert not result["dense_only"]
    assert result["name"] == "ranking L1H32A2 bf16 8 rows"
    printed = capsys.readouterr().out
    assert result["name"] in printed
    assert "without tables" not in printed


@pytest.mark.integration
@pytest.mark.slow
def test_without_fbgemm_it_says_so_and_gives_the_vectors(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    (result,) = figures(tmp_path, "--tasks", "pretraining")["results"]
    check(result)
    assert result["dense_only"]
    assert "without tables, as FBGEMM cannot work there: " in capsys.readouterr().out


def test_a_machine_without_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main([])


def test_the_large_architectures_are_measured_in_bfloat16():
    arguments = gpu._parser().parse_args([])
    cases = list(gpu.cases(arguments, dense_only=False))
    assert {case.task for case in cases} == {"pretraining", "ranking"}
    assert {case.architecture for case in cases} == set(gpu.ARCHITECTURES)
    assert {(case.precision, case.device) for case in cases} == {("bf16", "cuda")}


def test_the_dense_part_needs_no_tables():
    """Neither FBGEMM nor TorchRec is imported for it."""
    code = (
        "import sys, benchmarks.dense, benchmarks.gpu;"
        "print([name for name in ('fbgemm_gpu', 'torchrec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("task", ["pretraining", "ranking"])
def test_given_vectors_have_gradients_and_are_not_trained(task, monkeypatch):
    seen = []
    of = dense.GivenVectors._of
    monkeypatch.setattr(
        dense.GivenVectors, "_of", lambda self, ids: seen.append(of(self, ids)) or seen[-1]
    )
    monkeypatch.setattr(dense, "confine", lambda *_: None)
    case = Case(task=task, architecture="L1H32A2", rows=4, num_items=5000, steps=2)
    assert dense.measure(case).step_ms > 0
    assert all(vectors.distinct.grad.any() for vectors in seen)
    torch.testing.assert_close(seen[0].distinct[:4], seen[2].distinct[:4], rtol=0, atol=0)


def test_fbgemm_works_on_a_cpu_and_its_absence_has_a_reason(monkeypatch):
    assert fbgemm_fault(CPU) is None
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    assert "fbgemm_gpu" in fbgemm_fault(CPU)


def test_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    now_s(CPU)
    assert waited == []
    device = torch.device("cuda", 0)
    best_s(lambda: waited.append("called"), device, repeats=2)
    assert waited == [device, "called", device] * 2


def test_memory_is_the_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    assert peak_memory_bytes(torch.device("cuda", 0)) == 7
    assert peak_memory_bytes(CPU) > 2**20


def test_the_floor_is_the_larger_of_two_times():
    sizes = {"samples_per_s": 1, "tokens_per_s": 1, "step_ms": 8, "peak_memory_bytes": 1}
    rates = {"matmul_flops_per_s": 1e6, "copy_bytes_per_s": 1e6}
    by_arithmetic = Measured(flops=4000, num_bytes=2000, **sizes, **rates)
    by_memory = Measured(flops=4000, num_bytes=6000, **sizes, **rates)
    assert (by_arithmetic.floor_ms, by_memory.floor_ms) == (4, 6)
    assert by_arithmetic.matmul_share == by_memory.matmul_share == 0.5
    assert by_memory.facts()["floor_share"] == 0.75


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("more", [(), ("--dense-only",)])
def test_on_a_gpu(tmp_path, more):
    path = tmp_path / "gpu.json"
    gpu.main([*SMALL[2:], "--items", "5000", *more, "--json", str(path)])
    for result in json.loads(path.read_text())["results"]:
        check(result)
        assert result["peak_memory_bytes"] < 2**30
