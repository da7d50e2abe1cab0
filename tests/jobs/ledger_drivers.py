"""Drivers of a ledger as processes of their own, to be raced and killed.

    python -m tests.jobs.ledger_drivers VERB URL ARGUMENTS

race FOLDER NUM_RACERS NUM_ROUNDS   begin an attempt a round, at once with the others
contend FOLDER NUM_TIMES            hold the lease that often, alone
loop                                hold it, go through stages and tell what was recorded
"""

import itertools
import os
import sys
import time
from pathlib import Path

from jobs.ledger.ledger import open_ledger
from jobs.ledger.records import StageKey
from pipeline.errors import LeaseHeldError, LedgerError
from tests.jobs.ledgers import DAY, FROM, STAGES, wait_for


def race(ledger, folder, num_racers, num_rounds):
    for number in range(int(num_rounds)):
        (Path(folder) / f"{number}-{os.getpid()}").touch()
        wait_for(lambda ready=f"{number}-*": num_files(folder, ready) == int(num_racers), 0.001)
        try:
            ledger.begin(StageKey(DAY, "rank", f"task {number}"), **FROM)
        except LedgerError as error:
            if "is submitted, watched by process" not in str(error):
                raise
        else:
            tell("began", number)


def num_files(folder, pattern):
    return len(list(Path(folder).glob(pattern)))


def contend(ledger, folder, num_times):
    alone, epochs = Path(folder) / "alone", Path(folder) / "epochs"
    num_held = 0
    while num_held < int(num_times):
        try:
            with ledger.lease("chain") as lease:
                alone.touch(exist_ok=False)
                with epochs.open("a") as file:
                    file.write(f"{lease.epoch}\n")
                lease.check()
                alone.unlink()
        except LeaseHeldError:
            time.sleep(0.002)
        else:
            tell(lease.epoch)
            num_held += 1


def loop(ledger):
    with ledger.lease("chain", 3600) as lease:
        for record in ledger.live():
            tell_of(ledger.finish(ledger.adopt(record, lease), "lost"))
        for stage in itertools.cycle(STAGES):
            record = ledger.begin(StageKey(DAY, stage), **FROM, lease=lease)
            tell_of(record)
            record = ledger.set_handle(record, "app")
            tell_of(record)
            tell_of(ledger.finish(record, "succeeded", facts={"rows": 10}))
            tell("day", ledger.set_day(DAY, "running", lease=lease).change)


def tell_of(record):
    tell(record.key.stage, record.attempt, record.state)


def tell(*words):
    """At once and as a whole, so that what is told before a kill is read after it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


if __name__ == "__main__":
    verb, url, *arguments = sys.argv[1:]
    {"race": race, "contend": contend, "loop": loop}[verb](open_ledger(url), *arguments)
