"""What freezing the tables saves a ranking step: `python -m benchmarks.freezing`.

    python -m benchmarks.freezing [--architecture L4H32A4] [--items N] [--requests 512]
                                  [--optimizer adamw] [--turns N] [--core N] [--json FILE]

Models with trained tables, with frozen tables spread over the processes and with frozen tables
that every process holds whole take some steps each, by turns (`benchmarks.turns`), on the same
batches (`benchmarks.synthetic`): first in one process, then in two with a core each. Tables are
trained as the jobs do by default; `--optimizer adamw` does it as the method's authors do, with
moments for whole tables, and is slow: take fewer turns.
"""

from dataclasses import replace
from typing import Any, get_args

from benchmarks.turns import by_turns, facts_of, line, parser_of, ranking_of, write
from embeddings.settings import EmbeddingSettings
from jobs.facts import machine

KINDS = {
    "trained": {},
    "frozen": {"frozen": True},
    "frozen, whole": {"frozen": True, "replicated": True},
}


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__)
    parser.add_argument("--items", type=int, default=5_000_000, help="rows of the largest table")
    parser.add_argument(
        "--optimizer",
        choices=get_args(EmbeddingSettings.model_fields["optimizer"].annotation),
        default=EmbeddingSettings().optimizer,
        help="what trains the trained tables",
    )
    arguments = parser.parse_args()
    size = f"{arguments.items:,} items, {arguments.requests} requests a batch"
    print(f"{arguments.architecture}, {size}, {arguments.optimizer}, synthetic; {machine()}")
    results = list[dict[str, Any]]()
    for processes in (1, 2):
        trained = ranking_of(
            arguments,
            num_items=arguments.items,
            table_optimizer=arguments.optimizer,
            processes=processes,
        )
        cases = {f"{processes} x {kind}": replace(trained, **how) for kind, how in KINDS.items()}
        found = by_turns(cases, arguments.turns)
        for name, measured in found.items():
            print(line(name, measured, found[f"{processes} x trained"]), flush=True)
        results += facts_of(cases, found)
    write(arguments.json, results)


if __name__ == "__main__":
    main()
