"""When a site learns, and what it knows where that was decided by other rules before."""

from __future__ import annotations

from actors.site_slots import OpenSlots, Slots


def test_of_data_that_ends_every_slot_is_learned_at_up_to_the_last():
    slots = Slots(100, 24, 148)
    assert [slots.next(slot) for slot in (100, 124, 148, 172)] == [100, 124, 148, None]
    assert [slots.known(slot) for slot in (100, 148, 160)] == [100, 148, 148]


def test_of_slots_that_were_missed_it_learns_at_the_last_one():
    slots = OpenSlots(100, 24, lambda: 175)
    assert [slots.next(slot) for slot in (100, 124, 172, 196)] == [172, 172, 172, None]
    assert [slots.known(slot) for slot in (160, 175, 190)] == [160, 175, 175]
