"""The same days twice, undisturbed and with troubles and kills, and what must hold afterwards.

    Market -> undisturbed -> go_back -> disturbed -> compare, check_ledger, check_left

Every set that the disturbed chain publishes must be the undisturbed one's, bit for bit; every bad
day was stopped for what was wrong with it, and told to Prometheus; nothing was done twice.
"""

import shutil
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from random import Random

from embeddings.manifests import read_export
from jobs.checkpoint_files import problem_of
from tests.disk import small_disk_on
from tests.integration.daily_loop import VICTIMS, Loop
from tests.integration.daily_market import FIRST, PUBLISHED, Market, day_number
from tests.jobs.ledgers import rows_of

__all__ = ["LONG", "SHORT", "disturbed", "go_back", "undisturbed"]

# What is wrong at first -> with which day, from 0, the first of the chain.
SHORT = {"corrupt": 1, "late": 2, "half": 3}
LONG = {"corrupt": 2, "disk": 3, "late": 4, "half": 6, "poisoned": 8}


def undisturbed(market: Market, num_days: int, troubles: dict[str, int]) -> Loop:
    """Run the days; of the troubles only the poison, which models are to be left without."""
    market.bring(FIRST)
    code, output = market.daily(FIRST)
    assert code == PUBLISHED, output
    shutil.copytree(market.folder, market.folder.with_name("first"))
    loop = Loop(market, [day_number(number) for number in range(1, num_days)], troubles)
    loop.run()
    return loop


def go_back(market: Market, stack: ExitStack, troubles: dict[str, int]) -> None:
    """To the end of the first day, in the same place: what is recorded holds in one place only."""
    market.folder.rename(market.folder.with_name("undisturbed"))
    market.root.mkdir(parents=True)
    if "disk" in troubles:
        stack.enter_context(small_disk_on(market.root))("1g")
    shutil.copytree(market.folder.with_name("first"), market.folder, dirs_exist_ok=True)


def disturbed(
    market: Market,
    before: Loop,
    troubles: dict[str, int],
    num_kills: int,
    seed: int,
    victims: tuple[str, ...] = VICTIMS,
) -> Loop:
    """Run the days of an undisturbed loop again, and compare."""
    random = Random(seed)
    loop = Loop(market, before.days, troubles)
    loop.troubles = {day_number(number): kind for kind, number in troubles.items()}
    loop.kills = Counter(random.choices(before.days, k=num_kills))
    loop.random, loop.victims, loop.expected = random, victims, before.published
    loop.seconds, loop.num_file_events = market.day_s or before.seconds, before.num_file_events
    loop.run()
    compare(before, loop)
    check_ledger(loop)
    check_left(market.root)
    loop.counts["stages that began too late, and ended"] = num_too_late(market.root)
    return loop


def compare(undisturbed: Loop, disturbed: Loop) -> None:
    """The same sets were published, day after day, and the same days were not."""
    assert disturbed.published == undisturbed.published
    assert disturbed.states == undisturbed.states
    assert [*disturbed.states.values()].count("rejected") == len(undisturbed.poisoned)


def check_ledger(loop: Loop) -> None:
    """Every bad day was stopped, for what was wrong with it, and nothing was done twice."""
    ledger = loop.market.ledger
    notes = [(row["day"], row["state"], row["note"]) for row in rows_of(ledger, "ledger_days")]
    expected = {
        "corrupt": ("failed", "CorruptFileError"),
        "late": ("waiting", "no such day yet"),
        "half": ("rejected", "checks.max_rows_change"),
        "poisoned": ("rejected", "progressive: ranker that served at"),
    }
    for day, kind in loop.troubles.items():
        if kind not in expected:
            continue
        # What is wrong with labels shows when they are final, a day later.
        stopped = day + timedelta(days=kind == "poisoned")
        state, words = expected[kind]
        assert any((str(stopped), state) == row[:2] and words in row[2] for row in notes), kind
    records = ledger.records(loop.days[0], loop.days[-1])
    done = [record for record in records if record.state == "succeeded"]
    works = Counter((r.key, str(sorted(r.inputs.items())), r.config, r.code) for r in done)
    assert [work for work, times in works.items() if times > 1] == []
    assert ledger.live() == []
    loop.counts["attempts"] = len(records)
    for record in records:
        loop.counts[f"attempts that ended {record.state}"] += 1


def num_too_late(root: Path) -> int:
    """Stages that began when another attempt had been admitted, and so ended."""
    logs = (*root.glob("logs/**/stderr.log"), *root.glob("logs/**/slurm-*.err"))
    words = "was given up by the daily chain"
    return sum(words in path.read_text(errors="replace") for path in logs)


def check_left(root: Path) -> None:
    """No file is there by half."""
    assert [*root.glob("published/.*"), *root.glob(".progress.json*")] == []
    for folder in root.glob("tables/day=*"):
        read_export(folder)
    for manifest in root.glob("**/checkpoints/step-*"):
        assert problem_of(manifest) is None
