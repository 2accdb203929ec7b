"""Folding what an arrival touches, and nothing else, gives what folding everything would give."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.schema import Metric, ServerInfo
from tests.train.streams import DAY, SCHEMA, STEP_S, block_of, buffer_of, picture
from train.slots import RawSamples, Samples, SlotRules

ALL = replace(SCHEMA, metrics=(*SCHEMA.metrics, Metric("state", slot_rule="last")))
BEGIN = 2000
HISTORY = 2 * DAY


class EverythingFolded:
    """Raw samples as a plain dict; every arrival folds all that its series hold."""

    def __init__(self, rules):
        self._rules, self._metrics, self._held = rules, len(rules.rule), {}

    @property
    def kept(self):
        return self._samples(self._held)

    def add(self, new, *, edges):
        given = zip(new.series.tolist(), new.time_ms.tolist(), new.value.tolist(), strict=True)
        before = len(self._held)
        for series, time_ms, value in given:
            key = (series, time_ms)
            self._held[key] = max(value, self._held.get(key, value))
        touched = set(new.series.tolist())
        folded = self._rules.fold(self._samples(key for key in self._held if key[0] in touched))
        after = folded.slot > edges[folded.series // self._metrics]
        return folded.select(after), len(new) - (len(self._held) - before)

    def trim(self, edges):
        last = {}
        for series, time_ms in sorted(self._held):
            if time_ms // self._rules.step_ms <= edges[series // self._metrics]:
                last[series] = time_ms
        for series, time_ms in list(self._held):
            rate = self._rules.rate[series % self._metrics] and last.get(series) == time_ms
            if time_ms // self._rules.step_ms <= edges[series // self._metrics] and not rate:
                del self._held[series, time_ms]

    def forget(self, *rows):
        for key in [key for key in self._held if key[0] // self._metrics in rows]:
            del self._held[key]

    def _samples(self, keys):
        keys = sorted(keys)
        series, time_ms = np.array(keys, dtype=np.int64).reshape(-1, 2).T
        return Samples(series, time_ms, np.array([self._held[key] for key in keys], np.float64))


def one_by_one(intake, block):
    """Who is refused and why, sample by sample: (index, reason), as the rejects say it."""
    clock, roster = intake.clock.slot, intake.roster
    slots, retired = (block.time_ms // (STEP_S * 1000)).tolist(), roster.retired(clock)
    reasons = ["too_old" if clock is not None and s <= clock - HISTORY else "" for s in slots]
    by_server = {at: np.flatnonzero(block.server_index == at) for at in range(len(block.servers))}
    speaks = [at for at in by_server if any(reasons[n] == "" for n in by_server[at])]
    room = roster.room(block.servers, retired)
    for at in speaks:
        row = roster.row(block.servers[at])
        if row is None:
            room -= 1
            ended, reason = (-1, "") if room >= 0 else (max(slots), "too_many_servers")
        else:
            ended, reason = int(roster.floor[row]), "too_old"
            last = retired.get(block.servers[at])
            again = [slots[n] for n in by_server[at] if last is not None and slots[n] > last]
            if again and roster.is_gone(last, min(again) - 1):
                ended = last
        for n in by_server[at]:
            reasons[n] = reason if slots[n] <= ended and reason else reasons[n]
    return [(n, reason) for n, reason in enumerate(reasons) if reason]


SERVERS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True)
NUMBERS = st.sampled_from([0.1, 0.3, 7.7, 1e5, 40.0])
BACK = st.sampled_from([0, 0, 0, 1, 2, 3, 23, 24, 25, 40, DAY, DAY + 20, HISTORY, HISTORY + 1])
POINTS = st.lists(
    st.tuples(BACK, st.sampled_from([0, 60, 299]), st.sampled_from(ALL.names), NUMBERS),
    min_size=1,
    max_size=8,
)


@st.composite
def streams(draw):
    """Requests of a fleet: whole slots, late and repeated samples, long silences, backfills."""
    now, made = BEGIN, []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["slot", "slot", "slot", "points", "again", "long", "return"]))
        servers = draw(SERVERS)
        now += draw(st.sampled_from([0, 1, 1, 2]))
        if kind == "slot":
            number = draw(NUMBERS)
            parts = [(0, 0, name, now + number) for name in ALL.names]
        elif kind == "return":  # all speak, all but one are silent, one of those is back
            made.append([(server, now * STEP_S, "sent", now) for server in "abcde"])
            span = range(now, now + DAY + 2)
            made.append([("a", slot * STEP_S, "cpu", 1.0) for slot in span])
            now += DAY + 2
            servers, parts = ["b"], [(back, 0, "sent", 9.0) for back in (0, DAY + 2)]
        elif kind == "long":  # long enough for those who are silent to be retired
            span, servers = draw(st.sampled_from([30, DAY + 2])), servers[:2]
            now += draw(st.sampled_from([0, span]))
            parts = [(back, 0, name, 2.0) for back in range(span) for name in ("cpu", "sent")]
        else:
            parts = draw(POINTS)
        samples = [
            (server, (now - back) * STEP_S + second, name, number)
            for server in servers
            for back, second, name, number in parts
        ]
        if kind == "again" and made:
            samples += [(*one[:3], one[3] + draw(st.sampled_from([0, 1]))) for one in made[-1]]
        made.append(samples)
    return made


@given(streams(), st.integers(0, 3), st.sampled_from([3, 8]))
@settings(max_examples=150)
def test_any_stream_gives_the_same_grid_reports_and_raw_samples(requests, restart, most):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.slots._SPARE", 0)
        given_settings = {"schema": ALL, "max_servers": most, "snapshot_every_bytes": 4000}
        plain = buffer_of(**given_settings)
        plain._intake.raw = EverythingFolded(plain._intake.rules)
        directory = Path(folder) if restart else None
        quick = buffer_of(directory, **given_settings)
        for number, samples in enumerate(requests):
            infos = {samples[0][0]: ServerInfo(f"role {number}")}
            block = block_of(samples, metrics=ALL.names, infos=infos)
            refused = one_by_one(plain._intake, block)
            report = quick.append(f"r{number}", block)
            assert report == plain.append(f"r{number}", block)
            assert [(reject.index, reject.reason) for reject in report.rejected] == refused
            if restart and number % 3 == restart - 1:
                quick = buffer_of(directory, **given_settings)
        assert picture(quick) == picture(plain)
        assert state(quick) == state(plain)


def state(buffer):
    """What a buffer keeps, bit by bit."""
    intake, kept = buffer._intake, buffer._intake.raw.kept
    count = len(intake.roster.last)
    arrays = (kept.series, kept.time_ms, kept.value, intake.grid.heard)
    rows = (intake.grid.slots[:count], intake.grid.values[:count], intake.roster.floor)
    return [array.tobytes() for array in (*arrays, *rows)], intake.roster.to_json()


def test_times_too_far_apart_for_one_key_sort_alike():
    far = np.array([2**62, 5, 2**62, 5], dtype=np.int64)
    both = Samples(np.array([4, 4, 0, 0]), far, np.arange(4.0))
    whole = both.together(Samples(np.array([4]), np.array([5]), np.array([9.0])))
    assert whole.series.tolist() == [0, 0, 4, 4]
    assert whole.value.tolist() == [3.0, 2.0, 9.0, 0.0]


def test_what_is_of_no_more_use_goes_once_there_is_much_of_it(monkeypatch):
    monkeypatch.setattr("train.slots._SPARE", 10)
    raw, most = RawSamples(SlotRules((Metric("cpu"),), step_ms=1000)), 0
    for slot in range(200):
        one = Samples(np.array([0]), np.array([slot * 1000]), np.array([1.0]))
        raw.add(one, edges=np.array([slot - 25]))
        raw.trim(np.array([slot - 24]))
        most = max(most, sum(len(piece) for piece in raw._pieces))
        assert len(raw._pieces) <= 8
    assert most <= 25 * 1.25 + 10
    assert len(raw.kept) == 24
