"""The join against a computation cell by cell, whoever issued what where."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forecast.day_sums import DaySums
from forecast.metrics import cell_sums
from forecast.scoring import WHOLE, ServerSums, join
from tests.forecast.ledger_scene import HORIZON, LEVELS, TARGETS, block

SERVERS = tuple(f"s{at}" for at in range(4))
NAMES = ("champion", "copy_last", "ensemble", "v12")


def blocks_of(rng, slot):
    """Some members' blocks, some of few servers, some with holes, in any order of servers."""
    made = []
    for name in NAMES:
        if rng.random() < 0.25:
            continue
        count = rng.choice([4, 4, 4, 1, 2])
        servers = tuple(rng.permutation([*SERVERS, "other"])[:count])
        center = rng.normal(size=(count, HORIZON, len(TARGETS)))
        center[rng.random(center.shape) < rng.choice([0, 0, 0.1])] = np.nan
        version = int(rng.integers(1, 3))
        made.append(block(slot, name, center, version=version, servers=servers))
    return made


def one_by_one(actuals, origins):
    """Sums by (key of the fleet's sums) and by (paired, member, server, target, step)."""
    fleet, servers = defaultdict(float), defaultdict(float)
    for step, blocks in enumerate(origins):
        cells = list(itertools.product(range(len(SERVERS)), range(len(TARGETS))))
        said = {b.member: {} for b in blocks}
        for b in blocks:
            for s, t in cells:
                values = b.of(SERVERS[s])
                if values is not None and np.isfinite(values[step, t]).all():
                    said[b.member][s, t] = values[step, t]
        lead = next((b for b in blocks if b.member == "champion"), None)
        beside = None if lead is None else lead.version
        among = set().union(*said.values()) if lead is None else set(said["champion"])
        whole = [n for n, mine in said.items() if len(among & set(mine)) >= WHOLE * len(among)]
        common = set(among).intersection(*(said[name] for name in whole))
        for b in blocks:
            mine, name = said[b.member], b.member
            shown = common if name in whole else among & set(mine)
            for s, t in cells:
                y = actuals[s, t]
                if (s, t) in shown:
                    cell = cell_sums(y, mine[s, t], LEVELS)
                    servers[beside is not None, name, SERVERS[s], t, step] += cell
                    if name in whole:
                        fleet[(beside, name, b.version, None), t, step] += cell
                if lead is not None and b is not lead and (s, t) in mine and (s, t) in among:
                    led = cell_sums(y, said["champion"][s, t], LEVELS)
                    fleet[(beside, name, b.version, name), t, step] += cell_sums(
                        y, mine[s, t], LEVELS
                    )
                    fleet[(beside, "champion", beside, name), t, step] += led
    return fleet, servers


def counted(sums):
    return {key: value for key, value in sums.items() if value[0]}


@given(st.integers(0, 2**32))
def test_sums_equal_those_of_each_cell_by_itself(seed):
    rng = np.random.default_rng(seed)
    actuals = rng.normal(size=(len(SERVERS), len(TARGETS))).astype(np.float32)
    actuals[rng.random(actuals.shape) < 0.1] = np.nan
    origins = [blocks_of(rng, 9 - step) for step in range(HORIZON)]
    scored = join(SERVERS, actuals, origins, LEVELS)
    day = DaySums(0)
    day.add(day.folded(scored), SERVERS, scored)
    fleet, servers = one_by_one(actuals, origins)
    found = {
        (tuple(key), t, h): sums[t, h]
        for key, sums in day.fleet.items()
        for t, h in np.ndindex(sums.shape[:2])
    }
    by_server = {
        (*key, name, t, h): sums.of(name)[t, h]
        for key, sums in day.servers.items()
        for name in sums.servers
        if sums.of(name) is not None
        for t, h in np.ndindex(len(TARGETS), HORIZON)
    }
    for mine, wanted in ((found, fleet), (by_server, servers)):
        mine, wanted = counted(mine), counted(wanted)
        assert mine.keys() == wanted.keys()
        for key, cell in wanted.items():
            np.testing.assert_allclose(mine[key], cell, rtol=1e-9)


def test_a_shadow_narrows_nobodys_cells_and_is_told_in_its_pair_however_many_it_issues():
    actuals = np.ones((len(SERVERS), len(TARGETS)), np.float32)
    for count in (1, len(SERVERS)):
        holes = np.zeros((count, HORIZON, len(TARGETS)))
        holes[0, 0, 0] = np.nan  # on a whole member it would take this cell from all
        twin = block(4, "twin", holes, servers=SERVERS[:count])
        made = [block(4, servers=SERVERS), block(4, "naive", servers=SERVERS), twin]
        scored = {one.member: one for one in join(SERVERS, actuals, [made, [], []], LEVELS)}
        cells = len(SERVERS) * len(TARGETS)
        assert [scored[name].cells[..., 0].sum() for name in ("champion", "naive")] == [cells] * 2
        assert scored["twin"].origins[0].whole is False
        assert scored["twin"].pair[..., 0].sum() == count * len(TARGETS) - 1
        day = DaySums(0)
        every = tuple(scored.values())
        day.add(day.folded(every), SERVERS, every)
        assert {member for _, member in day.servers} == {"champion", "naive"}
        assert {key.among for key in day.fleet} == {None, "naive", "twin"}


def test_nothing_was_forecast_and_nobody_came():
    assert join(SERVERS, np.zeros((4, 2)), [[]] * HORIZON, LEVELS) == ()
    (one,) = join((), np.zeros((0, 2)), [[block(4)], [], []], LEVELS)
    assert one.cells.shape[0] == 0


@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=4))
def test_sums_of_servers_come_back_bit_for_bit_in_parts(counts):
    rng = np.random.default_rng(0)
    sums = rng.random((len(counts), 2, 3, 9))
    sums[..., :-4] = np.array(counts)[:, None, None, None]
    whole = ServerSums(tuple(f"s{at}" for at in range(len(counts))), sums)
    parts = [ServerSums.unpack(part.pack()) for part in whole.parts(3).values()]
    back = ServerSums.joined(parts)
    assert sorted(back.servers) == sorted(whole.servers)
    for server in whole.servers:
        mine, kept = whole.of(server), back.of(server)
        assert (mine is None) == (kept is None)
        assert mine is None or mine.tobytes() == kept.tobytes()
