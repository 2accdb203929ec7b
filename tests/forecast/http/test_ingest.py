"""Bodies of rows: what is read, what is refused, and how that is said."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.errors import RequestError, TooLarge, UnsupportedMedia
from forecast.http.ingest import JSON, NDJSON, Parser
from forecast.schema import Reject
from tests.forecast.http.http_scene import NOW_S, SCHEMA, SLOT, STEP, FakeService
from train.buffer import AppendReport

ROW = {"timestamp": "2026-01-01T00:00:00Z", "server": "web-1", "metrics": {"cpu": 0.5}}


def parser(**limits) -> Parser:
    sizes = {"max_body_bytes": 5000, "max_inflated_bytes": 20_000, "max_rows": 50, **limits}
    return Parser(schema=SCHEMA, max_clock_skew_s=600, now=lambda: NOW_S, **sizes)


def encoded(rows) -> bytes:
    return json.dumps(rows).encode()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, encoded({"rows": [ROW, ROW]})),
        (JSON, encoded([ROW, ROW])),
        ("Application/JSON; charset=utf-8", encoded([ROW, ROW])),
        (NDJSON, encoded(ROW) + b"\n\n" + encoded(ROW) + b"\r\n"),
    ],
)
def test_rows_come_as_an_object_a_list_or_lines(kind, body):
    parsed = parser().parse(body, kind, "")
    assert (len(parsed.block), parsed.rejected) == (2, ())


def test_a_gzipped_body_is_inflated_also_in_several_members():
    body = gzip.compress(encoded(ROW) + b"\n") + gzip.compress(encoded(ROW))
    assert len(parser().parse(body, NDJSON, "gzip").block) == 2


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-protobuf"])
def test_another_content_type_is_refused(kind):
    with pytest.raises(UnsupportedMedia, match="rows come as application/json"):
        parser().parse(b"[]", kind, "")


def test_another_content_encoding_is_refused():
    with pytest.raises(UnsupportedMedia, match="not 'br'"):
        parser().parse(b"[]", JSON, "br")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b"[" * 4000, "not JSON: nested too deeply"),
        (b"[" + b"9" * 4500 + b"]", "not JSON"),
        (b"3", "must be"),
        (b"null", "must be"),
        (b'{"row": []}', "must be"),
        (b'{"rows": [], "more": 1}', "must be"),
        (b'{"rows": {}}', "must be"),
    ],
)
def test_a_body_that_is_no_rows_at_all_is_refused_whole(body, said):
    with pytest.raises(RequestError, match=said) as refused:
        parser().parse(body, JSON, "")
    assert refused.value.status == 400


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"[1, 2, 3]")[:-9], b"\x1f\x8b"])
def test_a_damaged_gzip_body_is_refused(body):
    with pytest.raises(RequestError, match="gzip"):
        parser().parse(body, JSON, "gzip")


@pytest.mark.parametrize("members", [1, 3])
def test_a_small_body_that_inflates_to_a_large_one_is_refused(members):
    body = gzip.compress(b" " * 8_000_000) * members
    small = parser(max_body_bytes=100_000)
    with pytest.raises(TooLarge, match="inflates to more than 20000 bytes"):
        small.parse(body, JSON, "gzip")


def test_a_body_of_endlessly_many_gzip_members_is_refused():
    with pytest.raises(TooLarge, match="members"):
        parser().parse(gzip.compress(b"") * 200, JSON, "gzip")


def test_limits_hold_for_bytes_and_rows():
    with pytest.raises(TooLarge, match="5001 bytes, the limit is 5000"):
        parser().parse(b" " * 5001, JSON, "")
    with pytest.raises(TooLarge, match="51 rows"):
        parser().parse(encoded([1] * 51), JSON, "")
    with pytest.raises(TooLarge, match="lines"):
        parser().parse(b"1\n" * 101, NDJSON, "")


def test_a_bad_line_is_refused_with_its_index_and_the_rest_kept():
    lines = [encoded(ROW), b"{broken", b"", b"\xff", encoded({**ROW, "server": ""}), encoded(ROW)]
    parsed = parser().parse(b"\n".join(lines), NDJSON, "")
    assert len(parsed.block) == 2
    assert [(one.index, one.reason) for one in parsed.rejected] == [
        (1, "malformed"),
        (2, "malformed"),
        (3, "malformed"),
    ]
    assert parsed.rejected[0].detail.startswith("not JSON")


def test_values_are_refused_one_by_one_with_metric_and_reason():
    row = {**ROW, "metrics": {"cpu": float("nan"), "disk": 3.0, "gpu": 1.0, "load": None}}
    parsed = parser().parse(encoded([ROW, row]), JSON, "")
    assert len(parsed.block) == 2
    assert [(one.index, one.metric, one.reason) for one in parsed.rejected] == [
        (1, "gpu", "unknown_metric"),
        (1, "cpu", "not_finite"),
    ]


def test_the_answer_merges_what_the_buffer_refused_under_the_rows_own_index():
    service = FakeService(None)
    names = ["a", "b", "bad line", "c", "d", "e"]
    lines = [b"{" if " " in name else encoded({**ROW, "server": name}) for name in names]
    parsed = service.parser.parse(b"\n".join(lines), NDJSON, "")
    answer = service.parser.answer(parsed, service.buffer.append("r", parsed.block))
    assert (answer.accepted, answer.rejected_count) == (3, 3)
    assert [(one.index, one.reason) for one in answer.rejected] == [
        (2, "malformed"),
        (4, "too_many_servers"),
        (5, "too_many_servers"),
    ]


def test_the_answer_says_where_event_time_stands():
    report = AppendReport(
        accepted=5, late=2, repeated=1, rejected=(), clock_slot=SLOT, closed_slot=SLOT - 1
    )
    answer = parser().answer(parser().parse(b"[]", JSON, ""), report)
    assert (answer.accepted, answer.late, answer.repeated) == (5, 2, 1)
    assert (answer.clock, answer.closed_until) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
    empty = AppendReport(0, 0, 0, (), None, None)
    assert parser().answer(parser().parse(b"[]", JSON, ""), empty).clock is None


def test_only_the_first_hundred_refusals_are_listed_but_all_are_counted():
    refused = tuple(Reject(index, "too_old", "x") for index in range(150))
    report = AppendReport(0, 0, 0, refused, SLOT, SLOT - 1)
    answer = parser().answer(parser().parse(b"[]", JSON, ""), report)
    assert (answer.rejected_count, len(answer.rejected)) == (150, 100)


def test_a_row_from_the_future_is_refused_by_the_clock_that_was_passed_in():
    late = {**ROW, "timestamp": (SLOT + 4) * STEP}
    assert parser().parse(encoded([late]), JSON, "").rejected[0].reason == "future"


@given(st.binary(max_size=200), st.sampled_from([JSON, NDJSON]), st.sampled_from(["", "gzip"]))
def test_no_bytes_bring_the_parser_down(body, kind, encoding):
    try:
        parsed = parser().parse(body, kind, encoding)
    except RequestError:
        return
    assert len(parsed.block) == 0


@given(st.lists(st.sampled_from(["good", "bad", "blank", "future"]), max_size=20))
def test_every_line_is_either_kept_or_refused_under_its_own_index(kinds):
    future = {**ROW, "timestamp": "2027-01-01T00:00:00Z"}
    text = {"good": encoded(ROW), "bad": b"}", "blank": b"  ", "future": encoded(future)}
    body = b"\n".join(text[kind] for kind in kinds) + b"\n[]"
    parsed = parser().parse(body, NDJSON, "")
    rows = [kind for kind in kinds if kind != "blank"]
    good = [index for index, kind in enumerate(rows) if kind == "good"]
    others = [index for index in range(len(rows) + 1) if index not in good]
    assert [one.index for one in parsed.rejected] == others
    assert np.unique(parsed.block.row_index).tolist() == good
