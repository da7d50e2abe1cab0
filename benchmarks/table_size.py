"""What a larger table costs a ranking step: `python -m benchmarks.table_size`.

    python -m benchmarks.table_size [--items 10000 100000 1000000 10000000] [--frozen]
                                    [--architecture L4H32A4] [--requests 512] [--processes N]
                                    [--turns N] [--core N] [--json FILE]

Models with tables of all these sizes are in memory at once and take some steps each, by turns
(`benchmarks.turns`): 10,000,000 rows of width 32 take 1.3 GB.
"""

import argparse
import json
from pathlib import Path

from benchmarks.synthetic import Case
from benchmarks.turns import by_turns, facts_of, line
from jobs.facts import machine

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=SIZES, help="rows of the table")
    parser.add_argument("--frozen", action="store_true", help="tables are not trained")
    parser.add_argument("--architecture", default="L4H32A4")
    parser.add_argument("--requests", type=int, default=512, help="a batch's, in each process")
    parser.add_argument("--processes", type=int, default=1, help="each with a core")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--core", type=int, default=0, help="the first core that measures")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    cases = {
        f"{num_items:,} items": Case(
            task="ranking",
            architecture=arguments.architecture,
            num_items=num_items,
            rows=arguments.requests,
            frozen=arguments.frozen,
            core=arguments.core,
            processes=arguments.processes,
        )
        for num_items in arguments.items
    }
    tables = "frozen" if arguments.frozen else "trained"
    print(
        f"{arguments.architecture}, tables {tables}, {arguments.requests} requests a batch, "
        f"processes: {arguments.processes}, synthetic; {machine()}"
    )
    found = by_turns(cases, arguments.turns)
    for name, measured in found.items():
        print(line(name, measured, next(iter(found.values()))))
    if arguments.json:
        facts = {"machine": machine(), "results": facts_of(cases, found)}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
