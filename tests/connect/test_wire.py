from __future__ import annotations

import numpy as np

from connect.wire import head, wire_rows


def test_a_gap_is_left_out_and_a_row_of_gaps_too() -> None:
    values = np.array([[1.0, 2.0], [np.nan, 3.0], [np.nan, np.nan]])
    heads = [head("a"), head("b"), head("c")]
    rows = wire_rows(heads, [300, 300, 300], ["x", "y"], values)
    assert rows == [
        {"timestamp": 300, "server": "a", "metrics": {"x": 1.0, "y": 2.0}},
        {"timestamp": 300, "server": "b", "metrics": {"y": 3.0}},
    ]


def test_a_head_says_only_what_is_known() -> None:
    assert head("a", role="web") == {"server": "a", "role": "web"}
    assert head("a", timezone="UTC") == {"server": "a", "timezone": "UTC"}


def test_no_rows_are_no_rows() -> None:
    assert wire_rows([], [], ["x"], np.empty((0, 1))) == []
