"""What a lease promises: one holder at a time, whatever becomes of holders."""

import pytest

from jobs.ledger import leases
from jobs.ledger.ledger import open_ledger
from jobs.ledger.records import StageKey
from pipeline.errors import LeaseHeldError, LeaseLostError, LedgerError
from tests.jobs.ledgers import DAY, FROM, KEY, Promises, rows_of, wait_for, write


@pytest.fixture
def url(tmp_path):
    return tmp_path / "ledger.sqlite"


class LeasePromises(Promises):
    def test_one_holder_at_a_time(self, ledger):
        with ledger.lease("day=2024-01-05") as lease:
            held = (
                r"day=2024-01-05 is held by process \d+ on \S+, since 2024-01-06 05:00:00 UTC "
                r"until 2024-01-06 05:01:00 UTC, unless it is renewed; wait for that process"
            )
            with pytest.raises(LeaseHeldError, match=held), ledger.lease("day=2024-01-05"):
                pass
            with ledger.lease("day=2024-01-06") as other:
                assert other.epoch == lease.epoch + 1
            lease.check()
        with ledger.lease("day=2024-01-05") as lease:
            assert lease.epoch == 3

    def test_a_lease_that_was_given_back_is_lost(self, ledger):
        with ledger.lease("chain") as lease:
            pass
        with pytest.raises(LeaseLostError, match="the lease of chain is lost; end this process"):
            lease.check()

    def test_it_is_given_back_when_the_work_fails(self, ledger):
        with pytest.raises(ZeroDivisionError), ledger.lease("chain"):
            _ = 1 / 0
        with ledger.lease("chain"):
            pass

    def test_another_may_have_it_once_it_has_run_out(self, ledger, clock):
        with ledger.lease("chain", 60) as slow:
            clock.forward(59.999)
            with pytest.raises(LeaseHeldError), ledger.lease("chain"):
                pass
            clock.forward(0.001)
            with ledger.lease("chain") as quick:
                lost = r"the lease of chain is lost, taken over by process \d+ on"
                with pytest.raises(LeaseLostError, match=lost):
                    slow.check()
                quick.check()

    def test_what_has_run_out_but_nobody_took_is_renewed(self, ledger, clock):
        with ledger.lease("chain", 60) as lease:
            clock.forward(300)
            lease.check()
            with pytest.raises(LeaseHeldError, match="until 2024-01-06 05:06:00"):
                ledger.lease("chain").__enter__()

    def test_the_slow_one_gives_back_nothing(self, ledger, clock):
        slow = ledger.lease("chain", 60)
        with slow:
            clock.forward(60)
            quick = ledger.lease("chain").__enter__()
        quick.check()
        quick.__exit__(None, None, None)

    def test_under_a_lost_lease_nothing_is_recorded(self, ledger, clock):
        with ledger.lease("chain", 60) as slow:
            record = ledger.begin(KEY, **FROM, lease=slow)
            assert record.epoch == slow.epoch == 1
            clock.forward(60)
            with ledger.lease("chain") as quick:
                for change in (
                    lambda: ledger.begin(StageKey(DAY, "gate"), **FROM, lease=slow),
                    lambda: ledger.set_day(DAY, "published", lease=slow),
                    lambda: ledger.adopt(record, slow),
                ):
                    with pytest.raises(LeaseLostError):
                        change()
                assert ledger.records(DAY, DAY) == [record]
                assert ledger.day(DAY) is None
                adopted = ledger.adopt(record, quick)
                assert adopted.epoch == 2
                with pytest.raises(LedgerError, match=r"process \d+ on \S+ watches over it now"):
                    ledger.finish(record, "succeeded")
                ledger.finish(adopted, "failed")

    def test_it_is_renewed_meanwhile(self, url):
        ledger = open_ledger(url)
        with ledger.lease("chain", 0.3):
            first = rows_of(ledger, "ledger_leases")[0]
            wait_for(lambda: rows_of(ledger, "ledger_leases")[0]["expires"] > first["expires"])
            assert rows_of(ledger, "ledger_leases")[0]["since"] == first["since"]

    def test_renewing_goes_on_when_the_database_is_back(self, url, monkeypatch):
        ledger = open_ledger(url)
        with ledger.lease("chain", 0.3) as lease:
            tried = []

            def refuse():
                tried.append(None)
                raise LedgerError("out of reach")

            monkeypatch.setattr(lease, "check", refuse)
            wait_for(lambda: len(tried) > 1)
            monkeypatch.undo()
            before = rows_of(ledger, "ledger_leases")[0]["expires"]
            wait_for(lambda: rows_of(ledger, "ledger_leases")[0]["expires"] > before)

    def test_what_went_wrong_inside_is_what_is_told(self, ledger, monkeypatch):
        def fail(lease):
            raise LedgerError("out of reach")

        monkeypatch.setattr(leases.Lease, "_give_back", fail)
        with pytest.raises(ZeroDivisionError), ledger.lease("chain"):
            _ = 1 / 0
        with pytest.raises(LedgerError, match="out of reach"), ledger.lease("day"):
            pass

    @pytest.mark.parametrize(
        ("columns", "is_free"),
        [
            ({}, False),
            ({"born": "1"}, True),  # our number, but of a process that started before us
            ({"pid": 2**22 + 1}, True),  # beyond the highest number there can be
            ({"pid": 2**22 + 1, "machine": "another"}, False),
        ],
    )
    def test_a_holder_that_is_gone_for_sure_is_replaced_at_once(self, ledger, columns, is_free):
        with ledger.lease("chain"):
            for name, value in columns.items():
                write(ledger, f"UPDATE ledger_leases SET {name} = ?", value)
            if is_free:
                with ledger.lease("chain"):
                    pass
            else:
                with pytest.raises(LeaseHeldError), ledger.lease("chain"):
                    pass

    def test_a_holder_that_cannot_be_seen_is_not_replaced(self, ledger, monkeypatch):
        def refuse(pid, signal):
            raise PermissionError

        monkeypatch.setattr("os.kill", refuse)
        with ledger.lease("chain"):
            write(ledger, "UPDATE ledger_leases SET pid = ?", 2**22 + 1)
            with pytest.raises(LeaseHeldError), ledger.lease("chain"):
                pass


class TestOnSqlite(LeasePromises):
    """All of the above."""
