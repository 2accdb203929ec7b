"""Windows from values that came with a request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecast.errors import Unprocessable
from forecast.http import whatif
from forecast.http.queries import InlineContext
from tests.forecast.http.http_scene import CONTEXT, HORIZON, SLOT, STEP, windows

LIKE = windows()
DAY = 288


def context(values, metric="cpu", slot=SLOT, server="s", **more) -> InlineContext:
    start = datetime.fromtimestamp(slot * STEP, UTC)
    fields = {"server": server, "metric": metric, "start": start, "step": "5m", **more}
    return InlineContext(values=list(values), **fields)


def test_a_window_ends_with_the_latest_value_and_gaps_stay_gaps():
    values = [1.0, None, 3.0, 4.0]
    raw, warnings = whatif.windows([context(values, role="web", timezone="Asia/Tokyo")], LIKE)
    assert (raw.servers, raw.roles, raw.timezones) == (("s",), ("web",), ("Asia/Tokyo",))
    assert raw.origin.tolist() == [SLOT + 3]
    np.testing.assert_array_equal(
        raw.values[0, :, 0], [np.nan, np.nan, 1, np.nan, 3, 4] + [np.nan] * HORIZON
    )
    assert np.isnan(raw.values[0, :, 1:]).all()
    assert warnings == []


def test_metrics_of_one_server_that_begin_at_different_times_share_a_window():
    given = [context([1.0, 2.0]), context([7.0, 8.0, 9.0], "disk", SLOT + 1)]
    raw, _ = whatif.windows(given, LIKE)
    assert raw.origin.tolist() == [SLOT + 3]
    np.testing.assert_array_equal(raw.values[0, 2:6, 0], [1, 2, np.nan, np.nan])
    np.testing.assert_array_equal(raw.values[0, 2:6, 1], [np.nan, 7, 8, 9])


def test_long_values_give_the_same_time_of_yesterday_and_last_week():
    count = 7 * DAY + CONTEXT
    raw, _ = whatif.windows([context(np.arange(float(count)).tolist())], LIKE)
    slots = np.arange(count - CONTEXT, count + HORIZON)
    np.testing.assert_array_equal(raw.daily[0, :, 0], slots - DAY)
    np.testing.assert_array_equal(raw.weekly[0, :, 0], slots - 7 * DAY)
    assert np.isnan(raw.values[0, CONTEXT:]).all()


def test_every_server_has_its_own_window_and_origin():
    raw, _ = whatif.windows([context([1.0]), context([1.0, 2.0], server="t")], LIKE)
    assert (raw.servers, raw.origin.tolist()) == (("s", "t"), [SLOT, SLOT + 1])


def test_a_metric_nobody_knows_is_not_used_and_said():
    raw, warnings = whatif.windows([context([1.0], "gpu")], LIKE)
    assert warnings == ["context.0: metric 'gpu' is not known here"]
    assert np.isnan(raw.values).all()


def test_a_value_that_a_window_cannot_hold_is_a_gap():
    raw, _ = whatif.windows([context([1e300, 1.0])], LIKE)
    np.testing.assert_array_equal(raw.values[0, 4:6, 0], [np.nan, 1.0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([context([1.0], step="1m")], r"context\.0: step is 1m, but this panel's is 300s"),
        ([context([1.0], timezone="Mars/Olympus")], "not an IANA name"),
        ([context([1.0], timezone="../etc/passwd")], "not an IANA name"),
        ([context([1.0]), context([2.0])], "'cpu' of 's' is given twice"),
        ([context([1.0], start=datetime(9999, 12, 31, tzinfo=UTC))], "between 1971 and 2200"),
        ([context([1.0], start=datetime(1, 1, 1, tzinfo=UTC))], "between 1971 and 2200"),
    ],
)
def test_what_cannot_be_a_window_is_refused_by_its_place(given, said):
    with pytest.raises(Unprocessable, match=said):
        whatif.windows(given, LIKE)


def test_a_start_within_a_slot_belongs_to_that_slot():
    start = datetime.fromtimestamp(SLOT * STEP, UTC) + timedelta(seconds=299)
    raw, _ = whatif.windows([context([1.0], start=start)], LIKE)
    assert raw.origin.tolist() == [SLOT]
