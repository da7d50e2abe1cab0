"""One day, start to end: prepare, test, pretrain, export, rank and judge each task, publish.

    python -m jobs.daily --config FILE --day 2024-01-31
    python -m jobs.daily --config FILE --day yesterday
    python -m jobs.daily --config FILE --day 2024-01-31 --dry-run

Goes on from the published day before it; the last day of days.pretraining starts the chain. What
is done is not done again, so the same command after any interruption finishes the day. "yesterday"
also runs the days before it that are not settled yet, after a machine was off, say. Exit codes:
0 published, 1 failed, 2 a setting is wrong, 3 rejected by a gate or by its data, 4 waiting for data
or for the day before, 75 another driver is at work.
"""

from datetime import date

from jobs.chain.driver import (
    YESTERDAY,
    day_of,
    day_text,
    ended_by,
    ledger_of,
    ledger_url,
    run_days,
    settings_of,
    unsettled_days,
)
from jobs.chain.preview import preview
from jobs.command import parser_of, printed
from jobs.ledger.ledger import Ledger, look_at_ledger
from jobs.settings import JobSettings
from pipeline.errors import ConfigError

__all__ = ["main"]


def main() -> None:
    """Entry point of the command."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--day", type=day_text, required=True, help="YYYY-MM-DD, or yesterday (UTC)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would run, and why, and stop"
    )
    parser.add_argument(
        "--accept",
        action="store_true",
        help="publish one day, given by its date, whatever the gates of models say",
    )
    arguments = parser.parse_args()

    def days(settings: JobSettings, ledger: Ledger) -> list[date]:
        last = day_of(arguments.day)
        return unsettled_days(settings, ledger, last) if arguments.day == YESTERDAY else [last]

    def run() -> None:
        if arguments.accept and arguments.day == YESTERDAY:
            raise ConfigError(
                '--accept: "yesterday" may be several days; accept one by its date, --day '
                f"{day_of(YESTERDAY)}, say"
            )
        settings = settings_of(arguments)
        if arguments.dry_run:
            with look_at_ledger(ledger_url(settings)) as ledger:
                asked = days(settings, ledger)
                printed(preview(arguments, settings, ledger, asked, accept=arguments.accept))
        else:
            asked = days(settings, ledger_of(settings))
            run_days(arguments, asked, accept=arguments.accept)

    ended_by(run)


if __name__ == "__main__":
    main()
