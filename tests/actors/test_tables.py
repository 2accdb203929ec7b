"""What the experts know at a slot: a function of the slot alone, whatever fits when."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from actors.local import LocalHandle
from actors.settings import Settings
from actors.tables import ExpertTables

DAY, HOUR = 288, 12


class Fits:
    """A buffer whose fits say what they were asked for."""

    def __init__(self, *, fails: frozenset[int] = frozenset()) -> None:
        self.fails, self.fitted = fails, []

    async def least_squares(self, *, as_of, levels):
        return ("lines", as_of)

    async def residuals(self, *, as_of, hours, levels):
        return ("residuals", as_of)

    async def quantile_network(self, *, as_of, levels, seed):
        self.fitted.append(as_of)
        if as_of in self.fails:
            raise ValueError("no numbers")
        return ("network", as_of, seed)


def settings(every=DAY):
    asked = SimpleNamespace(
        network_every=every, per_hour=HOUR, levels=(0.5,), window_hours=72, seed=7
    )
    asked.network_slots = lambda hour: Settings.network_slots(asked, hour)
    return asked


def tables_at(slots, *, buffer=None, every=DAY):
    """What holds at each slot, with one `ExpertTables` for all of them."""

    async def ask():
        tables = ExpertTables(buffer=LocalHandle(buffer or Fits()), settings=settings(every))
        return [await tables.at(slot) for slot in slots]

    return asyncio.run(ask())


def test_a_network_is_used_from_an_hour_after_its_slot_to_an_hour_after_the_next():
    slots = range(10 * DAY - 1, 11 * DAY + 2 * HOUR)
    for slot, found in zip(slots, tables_at(slots), strict=True):
        used = (slot - slot % HOUR - HOUR) // DAY * DAY
        assert found.network == ("network", used, 7 + used)
        assert found.least_squares == ("lines", slot - slot % HOUR)


@pytest.mark.parametrize("slot", [10 * DAY, 10 * DAY + HOUR - 1, 10 * DAY + HOUR, 11 * DAY - 1])
def test_after_a_start_at_any_slot_the_same_holds(slot):
    [begun] = tables_at([slot])
    went_on = tables_at(range(9 * DAY, slot + 1))[-1]
    assert begun == went_on


def test_each_network_is_fitted_once_and_before_it_is_needed():
    buffer = Fits()
    tables_at(range(10 * DAY + HOUR, 12 * DAY + 2 * HOUR), buffer=buffer)
    assert buffer.fitted == [10 * DAY, 11 * DAY, 12 * DAY]
    early = Fits()
    tables_at(range(10 * DAY + HOUR, 11 * DAY + 2), buffer=early)
    assert early.fitted == [10 * DAY, 11 * DAY]


def test_a_fit_that_fails_leaves_the_member_out_for_its_time(caplog):
    buffer = Fits(fails=frozenset({11 * DAY}))
    slots = [10 * DAY + HOUR, 11 * DAY, 11 * DAY + HOUR, 12 * DAY, 12 * DAY + HOUR]
    found = [one.network for one in tables_at(slots, buffer=buffer)]
    assert [None if one is None else one[1] // DAY for one in found] == [10, 10, None, None, 12]
    assert "no quantile network as of slot 3168: no numbers" in caplog.text
    assert buffer.fitted.count(11 * DAY) == 1


def test_a_buffer_that_dies_stops_the_step_and_is_asked_again():
    class Dies(Fits):
        async def quantile_network(self, *, as_of, levels, seed):
            self.fitted.append(as_of)
            if len(self.fitted) == 1:
                raise ConnectionError("the buffer is gone")
            return ("network", as_of, seed)

    async def ask():
        tables = ExpertTables(buffer=LocalHandle(Dies()), settings=settings())
        with pytest.raises(ConnectionError):
            await tables.at(10 * DAY + HOUR)
        return await tables.at(10 * DAY + HOUR)

    assert asyncio.run(ask()).network == ("network", 10 * DAY, 7 + 10 * DAY)


def test_there_may_be_none():
    buffer = Fits()
    [found] = tables_at([10 * DAY], buffer=buffer, every=0)
    assert found.network is None
    assert buffer.fitted == []
