"""How fast models train on one core, each figure beside its floor: `python -m benchmarks.training`.

    python -m benchmarks.training [--only TEXT] [--json FILE] [--core N] [--steps N]

Every case runs in a process of its own (`benchmarks.step` says what is measured), those with
`2 processes` in two with a core each. Prints a table; `--json` writes the same.

`plain` is the same training done the obvious way (`benchmarks.plain`), in float32, measured just
before on the same core; `times` is against it. `theirs` is what the method's authors' public code
reached on one core of another machine, in float32, with the same batch: not of this run.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.measured import Measured
from benchmarks.processes import answer_of
from benchmarks.synthetic import Case
from jobs.facts import machine

# Samples a second.
THEIRS = {
    ("pretraining", "L4H32A4"): 86,
    ("ranking", "L4H32A4"): 1196,
    ("ranking", "L4H64A4"): 614,
    ("ranking", "L4H256A4"): 95,
}
# The obvious way is slow, and its steps take all the same time.
PLAIN_STEPS = 4
PRECISIONS = ("fp32", "bf16")
HEADER = (
    f"{'case':<52}{'samples/s':>11}{'plain':>8}{'times':>7}{'theirs':>8}{'step ms':>9}"
    f"{'floor ms':>9}{'share':>7}{'peak MB':>9}"
)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--core", type=int, default=0, help="the core that measures")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    print(f"synthetic batches, one core of {machine()}")
    print(HEADER)
    results, plain = [], dict[Case, Measured]()
    for named in cases():
        name = name_of(named)
        if arguments.only not in name:
            continue
        case = replace(named, core=arguments.core, steps=arguments.steps)
        beside = plain_of(case)
        if beside is not None and beside not in plain:
            plain[beside] = run(beside)
        found = run(case)
        yardstick = plain[beside].samples_per_s if beside is not None else None
        print(line(name, case, found, yardstick), flush=True)
        results.append(
            {"name": name, **asdict(case), **found.facts(), "plain_samples_per_s": yardstick}
        )
    if arguments.json:
        facts = {"machine": machine(), "results": results}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


def cases() -> Iterator[Case]:
    """All that is measured, in the order of the table."""
    yield from _beside_plain()
    yield from _by_table_size()
    yield Case(task="pretraining", architecture="L4H64A4", full_length=True)
    yield from _by_processes()


def _beside_plain() -> Iterator[Case]:
    for precision in PRECISIONS:
        yield Case(task="pretraining", architecture="L4H32A4", precision=precision)
    for candidates in (2, 10):
        for architecture in ("L4H32A4", "L4H64A4", "L4H256A4"):
            for precision in PRECISIONS:
                yield Case(
                    task="ranking",
                    architecture=architecture,
                    precision=precision,
                    candidates=candidates,
                )


def _by_table_size() -> Iterator[Case]:
    for frozen in (False, True):
        for num_items in (10_000, 100_000, 1_000_000, 5_000_000, 10_000_000):
            yield Case(task="ranking", architecture="L4H32A4", num_items=num_items, frozen=frozen)


def _by_processes() -> Iterator[Case]:
    for architecture in ("L4H32A4", "L4H64A4", "L4H128A4", "L4H256A4"):
        for processes in (1, 2):
            yield Case(
                task="ranking", architecture=architecture, num_items=50_000, processes=processes
            )
    large = Case(task="ranking", architecture="L4H32A4", num_items=5_000_000, processes=2)
    for frozen, replicated in ((False, False), (True, False), (True, True)):
        yield replace(large, frozen=frozen, replicated=replicated)
    for frozen in (False, True):
        yield replace(large, num_items=10_000_000, frozen=frozen)


def plain_of(case: Case) -> Case | None:
    """What a case is held against: a sample costs the same however many candidates there are."""
    if case.num_items != 41_000 or case.full_length:
        return None
    return replace(case, is_plain=True, precision="fp32", candidates=2, steps=PLAIN_STEPS)


def name_of(case: Case) -> str:
    """What the table calls it."""
    name = f"{case.task} {case.architecture} {case.precision}"
    if case.task == "ranking":
        name += f" {case.candidates} candidates"
    if case.num_items != 41_000:
        name += f" {case.num_items:,} items"
    name += (" frozen" if case.frozen else "") + (" replicated" if case.replicated else "")
    name += " full length" if case.full_length else ""
    return name + (f" {case.processes} processes" if case.processes > 1 else "")


def run(case: Case) -> Measured:
    """Measure a case in processes of its own."""
    return Measured(
        **answer_of("benchmarks.step", json.dumps(asdict(case)), processes=case.processes)
    )


def line(name: str, case: Case, found: Measured, plain: float | None) -> str:
    """One line of the table."""
    if plain is None:
        yardstick = f"{'-':>8}{'-':>7}{'-':>8}"
    else:
        theirs = THEIRS[case.task, case.architecture]
        yardstick = f"{plain:>8,.0f}{found.samples_per_s / plain:>7.1f}{theirs:>8,}"
    return (
        f"{name:<52}{found.samples_per_s:>11,.0f}{yardstick}{found.step_ms:>9.1f}"
        f"{found.floor_ms:>9.1f}{found.floor_share:>7.0%}"
        f"{found.peak_memory_bytes / 1e6:>9,.0f}"
    )


if __name__ == "__main__":
    main()
