"""What freezing the tables saves a ranking step: `python -m benchmarks.freezing`.

    python -m benchmarks.freezing [--architecture L4H32A4] [--items N] [--requests 512]
                                  [--turns N] [--core N] [--json FILE]

Models with trained tables, with frozen tables spread over the processes and with frozen tables
that every process holds whole take some steps each, by turns (`benchmarks.turns`), on the same
batches (`benchmarks.synthetic`): first in one process, then in two with a core each.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.synthetic import Case
from benchmarks.turns import by_turns, facts_of, line
from jobs.facts import machine

KINDS = {
    "trained": {},
    "frozen": {"frozen": True},
    "frozen, whole": {"frozen": True, "replicated": True},
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="L4H32A4")
    parser.add_argument("--items", type=int, default=5_000_000, help="rows of the largest table")
    parser.add_argument("--requests", type=int, default=512, help="a batch's, in each process")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--core", type=int, default=0, help="the first core that measures")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    size = f"{arguments.items:,} items, {arguments.requests} requests a batch"
    print(f"{arguments.architecture}, {size}, synthetic; {machine()}")
    results = list[dict[str, Any]]()
    for processes in (1, 2):
        trained = Case(
            task="ranking",
            architecture=arguments.architecture,
            num_items=arguments.items,
            rows=arguments.requests,
            core=arguments.core,
            processes=processes,
        )
        cases = {f"{processes} x {kind}": replace(trained, **how) for kind, how in KINDS.items()}
        found = by_turns(cases, arguments.turns)
        for name, measured in found.items():
            print(line(name, measured, found[f"{processes} x trained"]), flush=True)
        results += facts_of(cases, found)
    if arguments.json:
        facts = {"machine": machine(), "results": results}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
