"""What serves: show it, or go back to what served before.

    python -m jobs.publish --config FILE
    python -m jobs.publish --config FILE --rollback [--to 2024-01-30]

Going back replaces ROOT/published/current.json in one step. The days after it count as rejected
from then on: the next day goes on from what serves.
"""

import argparse
from collections.abc import Iterator
from datetime import timedelta

from jobs.chain.driver import day_of, ended_by, ledger_of, settings_of
from jobs.chain.published import Published, published_days, published_now, roll_back
from jobs.command import parser_of, printed
from jobs.monitoring.push import publish_serving
from pipeline.errors import ConfigError, PublicationError
from pipeline.partitions import days_between

__all__ = ["main"]


def main() -> None:
    """Entry point of the command."""
    parser = parser_of(__doc__)
    parser.add_argument("--rollback", action="store_true", help="let an earlier set serve again")
    parser.add_argument(
        "--to", type=day_of, metavar="DAY", help="which; the one before if not given"
    )
    arguments = parser.parse_args()
    ended_by(lambda: _publish(arguments))


def _publish(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments)
    root = settings.data.root
    if arguments.to and not arguments.rollback:
        raise ConfigError("--to: only with --rollback")
    lines: list[str] = []
    if arguments.rollback:
        ledger = ledger_of(settings)
        with ledger.lease("daily", settings.daily.lease_seconds) as lease:
            now, before = roll_back(root, arguments.to)
            for day in days_between(before.day + timedelta(days=1), now.day):
                settled = ledger.settled(day)
                # A day that was rejected by itself keeps its reason.
                if settled is None or settled.state != "rejected":
                    ledger.set_day(day, "rejected", f"rolled back to {before.day}", lease=lease)
        publish_serving(settings.monitoring, before.day)
        lines.append(f"went back from {now.day} to {before.day}")
    current = published_now(root)
    if current is None:
        raise PublicationError(f"{root / 'published'}: nothing was ever published")
    earlier = ", ".join(map(str, published_days(root)[:-1]))
    printed([*lines, *_shown(current), f"can go back to: {earlier or 'nothing'}"])


def _shown(published: Published) -> Iterator[str]:
    yield f"serving: {published.day}, published {published.at:%Y-%m-%d %H:%M} UTC"
    for task, ranker in published.rankers.items():
        yield f"  {task}: {ranker.checkpoint} on {ranker.export}"


if __name__ == "__main__":
    main()
