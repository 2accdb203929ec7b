"""POST /forecast: computed now, as of an earlier moment, or from values in the request."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from forecast.errors import ArtifactError, Busy, UnknownVersion
from tests.forecast.http.http_scene import (
    CPU,
    FORECAST,
    NDJSON,
    SLOT,
    FakeService,
    ask,
    block,
    get,
    only,
    post,
    problem_of,
    snapshot,
    without_values,
)


async def test_a_forecast_is_computed_now_by_the_champion_on_the_newest_windows():
    service = FakeService(snapshot())
    series = only(await ask(service, series=[CPU]))
    assert series["quantiles"]["0.1"] == [0.03] * 4
    assert series["members"] == [{"member": "champion", "version": 3, "weight": 1.0}]
    assert service.computed == [(("web-1",), None, SLOT)]


async def test_an_empty_question_is_the_whole_fleet_and_computes_what_has_context():
    service = FakeService(snapshot())
    answer = (await ask(service)).json()
    assert len(answer["series"]) == 8
    assert service.computed == [(("web-1", "web-2"), None, SLOT)]
    by_server = {one["server"]: one["status"] for one in answer["series"]}
    assert by_server == {"web-1": "ok", "web-2": "ok", "new-1": "warming_up", "old-1": "stale"}


async def test_one_unknown_series_does_not_fail_the_others():
    keys = [{"server": "nobody"}, CPU, {"server": "web-2", "metric": "nothing"}]
    answer = (await ask(FakeService(snapshot()), series=keys)).json()
    assert [one["status"] for one in answer["series"]] == ["unknown", "ok", "unknown"]


async def test_the_forecast_of_record_can_be_asked_for_too():
    service = FakeService(snapshot())
    assert only(await ask(service, series=[CPU], record=True))["quantiles"]["0.1"] == [0.2] * 4
    assert service.computed == []


async def test_another_version_can_be_asked_for_and_is_named():
    series = only(await ask(FakeService(snapshot()), series=[CPU], model="2"))
    assert series["members"] == [{"member": "version", "version": 2, "weight": 1.0}]
    assert series["quantiles"]["0.1"] == [0.02] * 4
    response = await ask(FakeService(snapshot()), series=[CPU], model="77")
    assert "no version 77" in problem_of(response, 404, "unknown-version")


@pytest.mark.parametrize(("model", "median"), [("seasonal_naive", 0.5), ("copy_last", 0.7)])
async def test_a_baseline_can_be_asked_for(model, median):
    series = only(await ask(FakeService(snapshot()), series=[CPU], model=model))
    assert (series["members"][0]["member"], series["fallback"]) == (model, None)
    assert series["quantiles"]["0.5"] == [median] * 4


@pytest.mark.parametrize("model", ["climatology", "least_squares", "quantile_network"])
async def test_an_expert_can_be_asked_for(model):
    given = snapshot()
    given = replace(given, blocks=(*given.blocks, block(model, 0.5)))
    series = only(await ask(FakeService(given), series=[CPU], model=model))
    assert (series["members"][0]["member"], series["fallback"]) == (model, None)
    assert series["quantiles"]["0.5"] == [0.6] * 4


async def test_quantiles_horizon_and_limits_are_as_asked():
    limits = [{"above": 0.1, "metric": "cpu"}, {"below": 0}]
    series = only(
        await ask(
            FakeService(snapshot()),
            series=[CPU],
            quantiles=[0.7, 0.5],
            horizon="10m",
            thresholds=limits,
        )
    )
    assert series["quantiles"] == {"0.5": [0.13, 0.13], "0.7": [0.18, 0.18]}
    assert series["breaches"][0]["probability"] == [0.62, 0.62]
    assert series["breaches"][1]["any_step_at_least"] == 0.0


async def test_without_a_champion_the_fallback_answers_and_says_so():
    answer = (await ask(FakeService(snapshot(version=None)), series=[CPU])).json()
    assert answer["series"][0]["fallback"] == "seasonal_naive"
    assert (answer["series"][0]["status"], answer["warnings"]) == ("fallback", [])


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("secret path"), "RuntimeError"),
        (Busy("full"), "full"),
        (UnknownVersion("no champion yet"), "no champion yet"),
        (ArtifactError("weights damaged"), "the champion cannot be loaded: weights damaged"),
    ],
)
async def test_when_the_champion_cannot_compute_the_forecast_of_record_answers(failure, said):
    service = FakeService(snapshot())
    service.failure = failure
    response = await ask(service, series=[CPU])
    assert only(response)["quantiles"]["0.1"] == [0.2] * 4
    (warning,) = response.json()["warnings"]
    assert said in warning
    assert "forecast of record as of 2026-01-01T00:05:00Z" in warning
    assert "secret" not in response.text


async def test_a_champion_of_another_shape_is_not_served():
    service = FakeService(replace(snapshot(), horizon=3))
    (warning,) = (await ask(service, series=[CPU])).json()["warnings"]
    assert "the champion forecasts (1, 4, 2, 3)" in warning


async def test_a_version_that_was_named_is_never_replaced_by_another():
    service = FakeService(snapshot())
    service.failure = ArtifactError("weights damaged")
    response = await ask(service, series=[CPU], model="2")
    assert "version 2 cannot be loaded" in problem_of(response, 409, "conflict")


async def test_an_earlier_moment_reads_only_slots_that_had_ended_by_then():
    service = FakeService(snapshot())
    series = only(await ask(service, series=[CPU], as_of="2025-12-31T23:07:00+00:00"))
    assert service.computed == [(("web-1",), None, SLOT - 12)]
    assert (series["as_of"], series["timestamps"][0]) == ("2025-12-31T23:05:00Z",) * 2


async def test_the_newest_moment_is_the_end_of_the_newest_slot():
    service = FakeService(snapshot())
    only(await ask(service, series=[CPU], as_of="2026-01-01T01:05:00+01:00"))
    assert service.computed[0][2] == SLOT


@pytest.mark.parametrize(
    "when", ["2026-01-01T00:10:00Z", "9999-12-31T00:00:00Z", "1969-01-01T00:00:00Z"]
)
async def test_a_moment_that_was_not_yet_or_never_is_refused(when):
    response = await ask(FakeService(snapshot()), series=[CPU], as_of=when)
    assert "2026-01-01T00:05:00Z" in problem_of(response, 422, "unprocessable")


async def test_a_server_not_seen_by_that_moment_is_unknown():
    keys = [{"server": "new-1", "metric": "cpu"}, {"server": "x"}]
    answer = (await ask(FakeService(snapshot()), series=keys, as_of="2025-12-31T23:05:00Z")).json()
    assert [one["status"] for one in answer["series"]] == ["unknown", "unknown"]


def inline(**more):
    given = {"server": "s", "metric": "cpu", "start": "2026-03-01T00:00:00Z", "step": "5m"}
    return {**given, "values": [0.1, 0.2, None, 0.3, 0.4, 0.5], **more}


async def test_a_what_if_is_forecast_from_the_values_in_the_request_alone():
    service = FakeService(snapshot())
    series = only(await ask(service, context=[inline()]))
    assert (series["status"], series["gap_slots"]) == ("ok", 1)
    assert series["as_of"] == "2026-03-01T00:30:00Z"
    assert series["members"][0]["version"] == 3
    assert service.buffer.servers() == ()


async def test_a_what_if_says_what_it_did_not_use_and_whom_it_does_not_know():
    keys = [{"server": "s"}, {"server": "web-1", "metric": "cpu"}]
    context = [inline(), inline(metric="gpu")]
    answer = (await ask(FakeService(snapshot()), series=keys, context=context)).json()
    assert [(one["metric"], one["status"]) for one in answer["series"]] == [
        ("cpu", "ok"),
        ("disk", "warming_up"),
        ("cpu", "unknown"),
    ]
    assert answer["warnings"] == ["context.1: metric 'gpu' is not known here"]


@pytest.mark.parametrize("more", [{"as_of": "2025-12-31T23:05:00Z"}, {"context": [inline()]}])
async def test_what_only_a_version_can_answer_waits_for_the_first_one(more):
    response = await ask(FakeService(snapshot(version=None)), **more)
    assert "no trained version" in problem_of(response, 503, "not-ready")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"series": []}, "series"),
        ({"series": "web-1"}, "series"),
        ({"series": [{"server": 3}]}, "series.0.server"),
        ({"series": [{"metric": "cpu"}]}, "series.0.server"),
        ({"series": [{**CPU, "x": 1}]}, "series.0.x"),
        ({"horizon": 3600}, "horizon"),
        ({"horizon": "soon"}, "horizon"),
        ({"quantiles": ["0.5"]}, "quantiles.0"),
        ({"quantiles": []}, "quantiles"),
        ({"quantiles": [float("nan")]}, "quantiles.0"),
        ({"model": "best"}, "model"),
        ({"model": 3}, "model"),
        ({"as_of": "2026-01-01T00:00:00"}, "as_of"),
        ({"as_of": 1767225600}, "as_of"),
        ({"thresholds": [{}]}, "thresholds.0"),
        ({"thresholds": [{"above": 1, "below": 0}]}, "thresholds.0"),
        ({"thresholds": [{"above": float("inf")}]}, "thresholds.0.above"),
        ({"record": "yes"}, "record"),
        ({"record": True, "as_of": "2026-01-01T00:00:00Z"}, ""),
        ({"record": True, "model": "2"}, ""),
        ({"model": "copy_last", "context": [inline()]}, ""),
        ({"context": [inline()], "as_of": "2026-01-01T00:00:00Z"}, ""),
        ({"context": [inline(values=[])]}, "context.0.values"),
        ({"context": [inline(values=[1e999])]}, "context.0.values.0"),
        ({"context": [inline(values=[0.0] * 5000)]}, "context.0.values"),
        ({"context": [inline(start="yesterday")]}, "context.0.start"),
        ({"context": [inline(step="fast")]}, "context.0.step"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
async def test_a_question_that_makes_no_sense_is_a_problem_that_says_where(body, where):
    response = await ask(FakeService(snapshot()), **body)
    problem_of(response, 422, "invalid-request")
    assert response.json()["errors"][0]["where"] == where


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"", "empty"), (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[" * 9000, "not JSON")],
)  # fmt: skip
async def test_a_question_that_is_no_json_is_a_bad_request(body, said):
    response = await post(FakeService(snapshot()), FORECAST, body)
    assert said in problem_of(response, 400, "bad-request")


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"text"'])
async def test_json_that_is_no_question_is_refused(body):
    problem_of(await post(FakeService(snapshot()), FORECAST, body), 422, "invalid-request")


async def test_a_question_comes_as_json_also_with_a_token(tmp_path):
    response = await post(FakeService(snapshot()), FORECAST, b"{}", NDJSON)
    problem_of(response, 415, "unsupported-media")


async def test_no_answer_holds_a_number_that_json_does_not_know():
    given = without_values(snapshot(), "web-1")
    service = FakeService(given)
    service.failure = RuntimeError("gone")
    for response in (await get(service, FORECAST), await ask(service)):
        json.loads(response.text, parse_constant=pytest.fail)
        empty = [one for one in response.json()["series"] if one["server"] == "web-1"]
        assert [(one["quantiles"], one["members"]) for one in empty] == [({}, [])] * 2


async def test_a_model_that_computes_nan_is_replaced_by_a_baseline():
    class Broken(FakeService):
        async def compute(self, raw, version):
            chosen, values = await super().compute(raw, version)
            return chosen, np.full_like(values, np.nan)

    series = only(await ask(Broken(snapshot()), series=[CPU]))
    assert (series["status"], series["fallback"]) == ("fallback", "seasonal_naive")
    windowed = only(await ask(Broken(snapshot()), context=[inline()]))
    assert (windowed["quantiles"], windowed["members"]) == ({}, [])
