"""How fast models train on a GPU, each figure beside its floor: `python -m benchmarks.gpu`.

    python -m benchmarks.gpu [--architectures L8H512A8 ...] [--rows 512 4096] [--tasks ranking]
                             [--precision bf16] [--items N] [--candidates N] [--steps N]
                             [--dense-only] [--device cpu] [--json FILE]

Pretraining and ranking steps of the jobs' own loop, the tables on the GPU, batches there before a
step begins; every case in a process of its own. `--dense-only` gives the Transformer its tokens'
vectors in place of tables (`benchmarks.dense`); so does the benchmark by itself, and says so,
where FBGEMM's operators for CUDA cannot be loaded.

A token is an event or a candidate. The floor is the larger of the step's floating-point operations
at the rate of a product of large matrices on the device, and the bytes that it cannot avoid at the
rate of a large copy there; `share` is the floor over the step, `matmul` the operations a second
over that product's. Peak memory is what PyTorch had given out on the GPU. With `--device cpu` the
same is measured on one core, to see that it runs.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.device import describe, fbgemm_fault
from benchmarks.measured import Measured
from benchmarks.processes import answer_of
from benchmarks.synthetic import Case

ARCHITECTURES = ("L4H256A4", "L8H512A8", "L12H768A12", "L24H1024A16")
HEADER = (
    f"{'case':<44}{'tokens/s':>12}{'samples/s':>12}{'step ms':>10}{'floor ms':>10}{'share':>7}"
    f"{'matmul':>8}{'peak MB':>9}"
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write after each case."""
    arguments = _parser().parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU that PyTorch can use: see torch.cuda.is_available(), or --device")
    device = torch.device(arguments.device)
    facts: dict[str, Any] = {"device": describe(device), "results": []}
    print(f"synthetic batches; {facts['device']}")
    fault = None if arguments.dense_only else fbgemm_fault(device)
    if fault:
        print(f"the dense part alone, without tables, as FBGEMM cannot work there: {fault}")
    print(HEADER)
    for case in cases(arguments, dense_only=arguments.dense_only or fault is not None):
        module = "benchmarks.dense" if case.dense_only else "benchmarks.step"
        asked = json.dumps(asdict(case))
        found = Measured(**answer_of(module, asked, device=case.device))
        print(line(case, found), flush=True)
        facts["results"].append({"name": name_of(case), **asdict(case), **found.facts()})
        if arguments.json:
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dense-only", action="store_true", help="without tables")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--tasks", nargs="+", default=("pretraining", "ranking"))
    parser.add_argument("--rows", type=int, nargs="+", default=(512, 4096), help="of a batch")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--items", type=int, default=41_000, help="rows of the largest table")
    parser.add_argument("--candidates", type=int, default=10, help="a request's, in ranking")
    parser.add_argument("--steps", type=int, default=40, help="the first quarter only warms up")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    return parser


def cases(arguments: argparse.Namespace, *, dense_only: bool) -> Iterator[Case]:
    """All that is measured, in the order of the table."""
    for task in arguments.tasks:
        for architecture in arguments.architectures:
            for rows in arguments.rows:
                yield Case(
                    task=task,
                    architecture=architecture,
                    precision=arguments.precision,
                    candidates=arguments.candidates,
                    rows=rows,
                    num_items=arguments.items,
                    steps=arguments.steps,
                    device=arguments.device,
                    dense_only=dense_only,
                )


def name_of(case: Case) -> str:
    """What the table calls it."""
    name = f"{case.task} {case.architecture} {case.precision} {case.rows:,} rows"
    return name + (" dense" if case.dense_only else "")


def line(case: Case, found: Measured) -> str:
    """One line of the table."""
    return (
        f"{name_of(case):<44}{found.tokens_per_s:>12,.0f}{found.samples_per_s:>12,.0f}"
        f"{found.step_ms:>10.2f}{found.floor_ms:>10.2f}{found.floor_share:>7.0%}"
        f"{found.matmul_share:>8.1%}{found.peak_memory_bytes / 1e6:>9,.0f}"
    )


if __name__ == "__main__":
    main()
