from __future__ import annotations

import pytest

from forecast.rows import RowError, RowFields


def fields():
    return RowFields(server_labels=("server",), latest_ms=2_000_000_000_000)


def test_a_single_label_may_be_given_in_either_way():
    assert fields().server({"server": "web-01"}) == "web-01"
    assert fields().server({"labels": {"server": "web-01"}}) == "web-01"


def test_what_is_not_said_of_a_server_is_empty():
    assert fields().info({}) == ("", "")
    assert fields().info({"role": "", "timezone": ""}) == ("", "")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc", "Europe", 7, "a\0b", ["UTC"]])
def test_only_a_known_time_zone_is_taken(zone):
    with pytest.raises(RowError, match="timezone"):
        fields().info({"timezone": zone})


def test_milliseconds_sent_as_seconds_are_not_taken_for_a_far_future():
    with pytest.raises(RowError) as refused:
        fields().time_ms({"timestamp": 1_700_000_000_000})
    assert refused.value.reason == "malformed"
