"""A range of days, one after the other: each goes on from the one before.

    python -m jobs.backfill --config FILE --from 2024-01-21 --to 2024-01-31 [--parallel-days 7]

Training is a chain, but cleaning is not: with --parallel-days N the events of N days at a time are
cleaned side by side, ahead of their turn. A day that a gate rejects is left out and the next one
goes on without it. Exit codes are those of jobs.daily.
"""

from jobs.chain.driver import day_of, ended_by, run_days
from jobs.command import parser_of
from pipeline.errors import ConfigError
from pipeline.partitions import days_between

__all__ = ["main"]


def main() -> None:
    """Entry point of the command."""
    parser = parser_of(__doc__)
    parser.add_argument("--from", type=day_of, required=True, dest="first", metavar="DAY")
    parser.add_argument("--to", type=day_of, required=True, dest="last", metavar="DAY")
    parser.add_argument("--parallel-days", type=int, default=1, metavar="N")
    arguments = parser.parse_args()

    def run() -> None:
        if arguments.first > arguments.last:
            raise ConfigError(f"--from {arguments.first} is after --to {arguments.last}")
        if arguments.parallel_days < 1:
            raise ConfigError(f"--parallel-days {arguments.parallel_days}: at least 1")
        days = days_between(arguments.first, arguments.last)
        run_days(arguments, days, cleaned_together=arguments.parallel_days)

    ended_by(run)


if __name__ == "__main__":
    main()
