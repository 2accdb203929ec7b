"""Scoring: the right forecasts are joined, each slot counts once, members meet on equal terms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forecast import metrics
from forecast.errors import RequestError
from tests.forecast.ledger_scene import (
    DAY,
    HORIZON,
    LEVELS,
    MEMBERS,
    SERVERS,
    TARGETS,
    actuals,
    block,
    ledger,
    random_actuals,
    random_blocks,
)


@pytest.fixture
def book(tmp_path):
    opened = ledger(tmp_path)
    yield opened
    opened.close()


def steps_of(report, member="champion"):
    return {row.horizon: row for row in report.member(member).horizons}


def test_each_step_ahead_meets_the_slot_it_was_made_for(book):
    # Origin o says 100 * o + h for h steps ahead. Slot 10 turns out 1000: the origin 10 - h is off
    # by 100 * h - h.
    steps = np.arange(1, HORIZON + 1)[None, :, None]
    for origin in range(6, 12):
        book.issue([block(origin, center=100 * origin + steps)])
    report = book.score(10, SERVERS, actuals(1000))
    assert report.cells == HORIZON * len(SERVERS) * len(TARGETS)
    found = steps_of(book.accuracy())
    assert {h: row.mae for h, row in found.items()} == {1: 99, 2: 198, 3: 297}
    assert {h: row.n for h, row in found.items()} == {1: 6, 2: 6, 3: 6}
    assert book.accuracy().member("champion").pooled.mae == 198


def test_a_forecast_is_scored_only_when_its_slot_has_passed(book):
    book.issue([block(10)])
    book.score(10, SERVERS, actuals(0))
    assert book.accuracy().members == ()
    for passed in range(1, HORIZON + 2):
        book.score(10 + passed, SERVERS, actuals(0))
        counted = [row.n for row in steps_of(book.accuracy()).values()]
        assert counted == [6 if h <= passed else 0 for h in range(1, HORIZON + 1)]


def test_scores_by_hand(book):
    # 3 against quantiles 1, 2, 3 for cpu; 5 against 3, 4, 5 for mem: pinball 0.2, 0.5, 0.
    book.issue([block(4, center=np.array([2.0, 4.0]))])
    happened = np.tile(np.array([3.0, 5.0]), (3, 1))
    report = book.score(5, SERVERS, happened)
    one = steps_of(book.accuracy())[1]
    wql = [2 * (0.7 / 3) / 3, 2 * (0.7 / 3) / 5]
    assert one.wql == pytest.approx(np.mean(wql))
    assert [one.targets[name].wql for name in TARGETS] == pytest.approx(wql)
    assert one.targets["cpu"].mae == one.targets["cpu"].rmse == 1
    assert one.coverage == {"0.8": 1}
    assert report.members == ("champion",)
    assert report.wql == pytest.approx([np.mean(wql)])
    np.testing.assert_allclose(report.loss, np.full((1, 3, 2), 0.7 / 3))


def test_coverage_counts_what_fell_inside(book):
    book.issue([block(4, center=5)])
    book.score(5, SERVERS, np.array([[4.0, 6.0], [5.5, 6.5], [3.0, np.nan]]))
    pooled = book.accuracy().member("champion").pooled
    assert pooled.n == 5
    assert pooled.coverage == {"0.8": 0.6}
    assert pooled.targets["mem"].coverage == {"0.8": 0.5}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Forty slots of random forecasts and actuals, with gaps, and the ledger that scored them."""
    rng = np.random.default_rng(11)
    book = ledger(tmp_path_factory.mktemp("story"))
    issued, happened = {}, {}
    for slot in range(40):
        happened[slot] = random_actuals(rng)
        book.score(slot, SERVERS, happened[slot])
        issued[slot] = random_blocks(rng, slot)
        book.issue(issued[slot])
    yield book, issued, happened
    book.close()


def cells_of(blocks, actuals, h):
    """Cells of one origin by hand: (y [S, T], q [S, T, Q]) on the common cells and on the pair."""
    champion, other = (block.values[:, h - 1] for block in blocks)
    first, second = np.isfinite(champion).all(-1), np.isfinite(other).all(-1)
    both = first & second
    whole = both.sum() >= 0.9 * first.sum()
    common = both if whole else first

    def on(cells, q):
        return np.where(cells, actuals, np.nan), q

    nothing = np.zeros_like(both)
    return {
        "champion": on(common, champion),
        "copy_last": on(common if whole else nothing, other),
        "pair": on(both, other),
        "champion's pair": on(both, champion),
    }


def by_hand(story, which, h, origins):
    _, issued, happened = story
    found = [cells_of(issued[o], happened[o + h], h)[which] for o in origins if o + h < 40]
    return np.stack([y for y, _ in found]), np.stack([q for _, q in found])


def test_sums_over_days_equal_a_naive_computation_over_every_pair(story):
    report = story[0].accuracy()
    for member in MEMBERS:
        for h in range(1, HORIZON + 1):
            y, q = by_hand(story, member, h, range(40))
            found = steps_of(report, member)[h]
            assert found.n == np.sum(~np.isnan(y)) > 0
            wql = [metrics.wql(y[..., t], q[:, :, t], LEVELS) for t in range(len(TARGETS))]
            assert found.wql == pytest.approx(np.mean(wql))
            assert found.coverage == pytest.approx({"0.8": metrics.coverage(y, q, LEVELS)[0.8]})
            error = (y - q[..., 1])[..., 0]
            assert found.targets["cpu"].rmse == pytest.approx(np.sqrt(np.nanmean(error**2)))


def test_a_pair_by_day_equals_a_naive_computation_over_its_cells(story):
    daily = story[0].daily("copy_last")
    assert daily.days == tuple(range(40 // DAY))
    for place, day in enumerate(daily.days):
        for h in range(1, HORIZON + 1):
            # What was scored on that day: origins h before.
            origins = range(max(0, day * DAY - h), (day + 1) * DAY - h)
            for sums, which in ((daily.member, "pair"), (daily.champion, "champion's pair")):
                y, q = by_hand(story, which, h, origins)
                cells = metrics.cell_sums(y, q, LEVELS).sum(axis=(0, 1))
                np.testing.assert_allclose(sums[place, :, h - 1], cells, rtol=1e-9)
    np.testing.assert_array_equal(daily.member[..., 0], daily.champion[..., 0])


def test_days_are_read_from_and_through(story):
    book = story[0]
    everything = book.daily("copy_last")
    some = book.daily("copy_last", since_day=1, through_day=2)
    assert some.days == (1, 2)
    np.testing.assert_array_equal(some.member, everything.member[1:3])
    assert book.daily("copy_last", since_day=9).days == ()
    nobody = book.daily("nobody")
    assert (nobody.days, nobody.member.shape) == ((), (0, *everything.member.shape[1:]))


def test_the_champion_by_day_is_all_that_the_report_says_of_it(story):
    book = story[0]
    daily = book.daily("champion")
    score = metrics.Score(daily.member.sum(axis=(0, 1, 2)), LEVELS)
    assert score.n == book.accuracy().member("champion").pooled.n
    np.testing.assert_array_equal(daily.member, daily.champion)
    shares = metrics.Score(daily.member.sum(0), LEVELS).below
    assert shares.shape == (len(TARGETS), HORIZON, len(LEVELS))
    assert (np.diff(shares, axis=-1) >= 0).all()


def test_a_slot_scored_twice_counts_once_and_gives_its_first_report(book):
    book.issue([block(4)])
    first = book.score(5, SERVERS, actuals(1))
    again = book.score(5, SERVERS, actuals(99))
    assert again.pack() == first.pack()
    assert book.accuracy().member("champion").pooled.n == 6
    assert book.accuracy().member("champion").pooled.mae == 1
    assert book.counts()["scored_slots"] == 1


def test_the_first_block_of_a_slot_and_member_stays(book):
    book.issue([block(4, center=1), block(4, "copy_last", center=2)])
    book.issue([block(4, center=50), block(4, "seasonal_naive", center=3)])
    assert [(b.member, b.values[0, 0, 0, 1]) for b in book.blocks(4)] == [
        ("champion", 1),
        ("copy_last", 2),
        ("seasonal_naive", 3),
    ]
    assert book.counts()["issued_blocks"] == 3
    book.score(5, SERVERS, actuals(0))
    assert book.accuracy().member("champion").pooled.mae == 1


def test_servers_join_leave_and_change_places(book):
    book.issue([block(4, center=np.array([1.0, 2, 3])[:, None, None])])
    book.score(5, ("s2", "s0", "new"), actuals(0, "abc"))
    assert book.accuracy().member("champion").pooled.n == 4
    assert book.accuracy(server="s2").member("champion").pooled.mae == 3
    assert book.accuracy(server="s0").member("champion").pooled.mae == 1
    assert book.accuracy(server="s1").members == ()
    assert book.accuracy(server="new").members == ()

    book.issue([block(5, center=7, servers=("new", "s1"))])
    book.score(6, ("new", "s0", "s1"), actuals(0, "abc"))
    assert book.accuracy(server="new").member("champion").pooled.mae == 7
    # One step ahead from slot 5, and two steps from slot 4.
    assert book.accuracy(server="s1").member("champion").pooled.n == 4
    assert book.accuracy(server="s0").member("champion").pooled.n == 4
    assert book.accuracy().member("champion").pooled.n == 4 + 4 + 4


def test_a_slot_without_any_server_is_scored_as_empty(book):
    book.issue([block(4)])
    report = book.score(5, (), np.empty((0, 2)))
    assert (report.cells, report.members) == (0, ())
    assert book.scored_through == 5


def test_whole_members_are_compared_only_where_each_of_them_issued(book):
    many = tuple(f"s{at}" for at in range(12))
    gap = np.ones((12, HORIZON, 2))
    gap[0, 0, 1] = np.nan  # the champion says nothing about s0's mem one step ahead
    other = np.full((12, HORIZON, 2), 2.0)
    other[1, 0, 0] = np.nan
    book.issue([block(4, center=gap, servers=many)])
    book.issue([block(4, "copy_last", center=other, servers=many)])
    report = book.score(5, many, actuals(0, many))
    assert report.cells == 22
    assert {m.member: m.pooled.n for m in book.accuracy().members} == {
        "champion": 22,
        "copy_last": 22,
    }
    assert np.isnan(report.loss[:, 0, 1]).all()
    assert np.isnan(report.loss[:, 1, 0]).all()


def test_a_member_on_a_few_servers_takes_no_cell_from_the_others(book):
    book.issue([block(4, center=1), block(4, "copy_last", center=2)])
    book.issue([block(4, "v12", center=np.array([5.0, 7.0]), servers=("s1",))])
    report = book.score(5, SERVERS, actuals(0))
    assert report.cells == 6
    found = book.accuracy()
    assert {m.member: m.pooled.n for m in found.members} == {"champion": 6, "copy_last": 6}
    # It is scored all the same: in the report of the slot, beside the champion, and by server.
    assert report.members == ("champion", "copy_last", "v12")
    np.testing.assert_array_equal(np.isnan(report.loss[2]), [[True] * 2, [False] * 2, [True] * 2])
    daily = book.daily("v12")
    mine, other = (metrics.Score(s[0, :, 0], LEVELS) for s in (daily.member, daily.champion))
    assert (mine.n.tolist(), other.n.tolist()) == ([1, 1], [1, 1])
    assert (mine.mae.tolist(), other.mae.tolist()) == ([5, 7], [1, 1])
    assert book.accuracy(server="s1").member("v12").pooled.n == 2
    assert book.accuracy(server="s0").member("v12") is None


def test_a_member_that_leaves_out_a_tenth_is_still_whole(book):
    many = tuple(f"s{at}" for at in range(10))
    book.issue([block(4, servers=many), block(4, "ensemble", servers=many[:9])])
    book.issue([block(5, servers=many), block(5, "ensemble", servers=many[:8])])
    book.score(6, many, actuals(0, many))
    counted = {m.member: steps_of(book.accuracy(), m.member) for m in book.accuracy().members}
    assert [counted[name][2].n for name in ("champion", "ensemble")] == [18, 18]
    assert [counted[name][1].n for name in ("champion", "ensemble")] == [20, 0]
    pair = book.daily("ensemble")
    assert pair.member[0, ..., 0].sum() == pair.champion[0, ..., 0].sum() == 18 + 16


def test_without_a_champion_whole_is_who_covers_what_anybody_does(book):
    book.issue([block(4, "copy_last", 1), block(4, "least squares", 2, servers=("s0",))])
    report = book.score(5, SERVERS, actuals(0))
    assert [m.member for m in book.accuracy().members] == ["copy_last"]
    assert book.accuracy().member("copy_last").pooled.n == 6
    assert report.members == ("copy_last", "least squares")
    assert book.daily("copy_last").days == ()


def test_a_block_of_nobody_is_an_error(book):
    with pytest.raises(ValueError, match="names no member"):
        book.issue([block(4, "")])


def test_masked_servers_are_in_no_sum_and_no_report(book):
    book.issue([block(4, center=np.array([1, 2, 3])[:, None, None]), block(4, "copy_last")])
    report = book.score(5, SERVERS, actuals(0), masked={"s1", "gone"})
    assert report.cells == 4
    np.testing.assert_array_equal(np.isnan(report.loss[0]), [[False] * 2, [True] * 2, [False] * 2])
    np.testing.assert_array_equal(np.isnan(report.actuals[:, 0]), [False, True, False])
    assert book.accuracy().member("champion").pooled.mae == 2
    assert book.accuracy(server="s1").members == ()
    assert book.daily("copy_last").member[0, ..., 0].sum() == 4
    # Masked or not, a slot counts once.
    assert book.score(5, SERVERS, actuals(0)).pack() == report.pack()
    book.score(6, SERVERS, actuals(0))
    assert book.accuracy(server="s1").member("champion").pooled.n == 2


def test_a_member_missing_at_one_origin_does_not_empty_the_others(book):
    book.issue([block(3), block(3, "copy_last")])
    book.issue([block(4)])
    book.score(5, SERVERS, actuals(0))
    report = book.accuracy()
    assert [row.n for row in steps_of(report).values()] == [6, 6, 0]
    assert [row.n for row in steps_of(report, "copy_last").values()] == [0, 6, 0]


def test_before_the_first_model_the_baselines_are_compared_with_each_other(book):
    book.issue([block(4, "copy_last", 1), block(4, "seasonal_naive", 2)])
    book.score(5, SERVERS, actuals(0))
    report = book.accuracy()
    assert [(m.member, m.pooled.mae) for m in report.members] == [
        ("copy_last", 1),
        ("seasonal_naive", 2),
    ]
    assert report.versions == ()


def test_once_a_champion_is_scored_the_baselines_count_only_beside_it(book):
    book.issue([block(4, "copy_last", 9)])
    book.issue([block(5, "copy_last", 1), block(5, center=2)])
    book.score(6, SERVERS, actuals(0))
    for server in (None, "s1"):
        report = book.accuracy(server=server)
        assert [m.member for m in report.members] == ["champion", "copy_last"]
        assert report.member("copy_last").pooled.mae == 1
        assert report.member("copy_last").pooled.n == report.member("champion").pooled.n


def test_each_version_is_measured_with_the_baselines_beside_it(book):
    book.issue([block(4, center=4, version=1), block(4, "copy_last", 5)])
    book.issue([block(5, center=1, version=2), block(5, "copy_last", 3)])
    book.score(6, SERVERS, actuals(0))
    report = book.accuracy()
    assert {v.version: [m.pooled.mae for m in v.members] for v in report.versions} == {
        1: [4, 5],
        2: [1, 3],
    }
    assert all(m.horizons == () for v in report.versions for m in v.members)
    assert report.member("champion").pooled.mae == 2.5
    second = book.accuracy(version=2)
    assert [v.version for v in second.versions] == [2]
    assert second.versions[0].members[0].horizons[0].mae == 1
    assert second.member("copy_last").pooled.mae == 3
    assert book.accuracy(server="s0").versions == ()


def test_since_is_rounded_down_to_its_day(book):
    for slot in range(4 * DAY):
        book.score(slot, SERVERS, actuals(0))
        book.issue([block(slot, center=slot // DAY)])
    everything = book.accuracy()
    assert (everything.since_slot, everything.through_slot) == (0, 4 * DAY - 1)
    late = book.accuracy(since_slot=3 * DAY + 5)
    assert late.since_slot == 3 * DAY
    assert late.member("champion").pooled.n == DAY * HORIZON * 6
    assert steps_of(late)[1].mae == pytest.approx((7 * 3 + 2) / 8)
    assert book.accuracy(since_slot=9 * DAY).members == ()


def test_one_target_is_read_alone(book):
    book.issue([block(4, center=np.array([1.0, 3.0]))])
    book.score(5, SERVERS, actuals(0))
    report = book.accuracy(target="mem")
    assert list(report.member("champion").pooled.targets) == ["mem"]
    assert report.member("champion").pooled.mae == 3


def test_a_question_that_cannot_be_answered_says_so(book):
    with pytest.raises(RequestError, match=r"'disk'.*cpu, mem"):
        book.accuracy(target="disk")
    with pytest.raises(RequestError, match="not for each server"):
        book.accuracy(server="s0", version=1)


def test_a_target_that_was_always_zero_has_no_wql_and_spoils_no_mean(book):
    book.issue([block(4, center=np.array([1.0, 2.0]))])
    book.score(5, SERVERS, np.tile([0.0, 2.0], (3, 1)))
    pooled = book.accuracy().member("champion").pooled
    assert pooled.targets["cpu"].wql is None
    assert pooled.wql == pooled.targets["mem"].wql


def test_the_report_is_plain_json(book):
    book.issue([block(4)])
    book.score(5, SERVERS, actuals(0))
    tree = json.loads(json.dumps(book.accuracy().to_json(), allow_nan=False))
    assert tree["members"][0]["horizons"][0]["horizon"] == 1
    assert tree["members"][0]["pooled"]["coverage"] == {"0.8": 1.0}


def test_actuals_that_do_not_fit_are_an_error(book):
    with pytest.raises(ValueError, match="slot 5"):
        book.score(5, SERVERS, np.zeros((3, 1)))
    with pytest.raises(ValueError, match="2 servers"):
        book.score(5, ("s0", "s1", "s1"), actuals(0))


def test_a_block_of_other_targets_or_levels_is_an_error_and_nothing_is_kept(book):
    other = block(4)
    object.__setattr__(other, "levels", (0.2, 0.5, 0.8))
    with pytest.raises(ValueError, match=r"0\.2"):
        book.issue([block(4, "copy_last"), other])
    assert book.blocks(4) == ()
