"""What a larger table costs a ranking step: `python -m benchmarks.table_size`.

    python -m benchmarks.table_size [--items 10000 100000 1000000 10000000] [--frozen]
                                    [--architecture L4H32A4] [--requests 512] [--processes N]
                                    [--turns N] [--core N] [--json FILE]

Models with tables of all these sizes are in memory at once and take some steps each, by turns
(`benchmarks.turns`): 10,000,000 rows of width 32 take 1.3 GB.
"""

from benchmarks.turns import by_turns, facts_of, line, parser_of, ranking_of, write
from jobs.facts import machine

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=SIZES, help="rows of the table")
    parser.add_argument("--frozen", action="store_true", help="tables are not trained")
    parser.add_argument("--processes", type=int, default=1, help="each with a core")
    arguments = parser.parse_args()
    same = {"frozen": arguments.frozen, "processes": arguments.processes}
    cases = {
        f"{num_items:,} items": ranking_of(arguments, num_items=num_items, **same)
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
    write(arguments.json, facts_of(cases, found))


if __name__ == "__main__":
    main()
