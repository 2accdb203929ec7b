from __future__ import annotations

import numpy as np
import pytest

from forecast import members as under_test
from forecast.artifact import Artifact, pack
from forecast.errors import UnknownVersion
from forecast.members import Members
from forecast.model import Model, ModelSpec, build
from forecast.schema import Schema
from forecast.window_spec import WindowSpec
from tests.forecast.window_scene import ROLES, gauge, made, rate

METRICS = (gauge("cpu", lower=0.0, upper=8.0), rate("net"))
NAMES = ("cpu", "net")
LEVELS = (0.1, 0.5, 0.9)
SCHEMA = Schema("servers", 300, METRICS, NAMES)


def artifact(seed: int, targets: tuple[str, ...] = NAMES) -> Artifact:
    spec = ModelSpec(WindowSpec(300, 8, 3, METRICS, targets, ROLES), LEVELS, hidden_size=4)
    return pack(
        Model(spec, build(spec, seed=seed)),
        fingerprint="schema-a",
        lineage={"kind": "base"},
        metrics={},
        probe=made(NAMES, count=2),
        created_at="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def members() -> Members:
    some = Members(schema=SCHEMA, context=8, horizon=3, levels=LEVELS)
    some.load(1, artifact(1))
    some.load(2, artifact(2))
    some.load(3, artifact(3, ("cpu",)))
    return some


def test_versions_that_forecast_the_same_windows_share_one_build_of_them(members, monkeypatch):
    raw, other = made(NAMES, count=300, gaps=0.1), made(NAMES, count=4, seed=5)
    alone = [members.forecast(raw, version) for version in (1, 2, 3)]
    built = []
    honest = under_test.transform
    monkeypatch.setattr(
        under_test, "transform", lambda part, spec: built.append(len(part)) or honest(part, spec)
    )
    requests = [members.request(raw, version) for version in (1, 2, 3)]
    together = members.predict([*requests, members.request(other, 2)])
    for found, wanted in zip(together, alone, strict=False):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(together[3], members.forecast(other, 2), rtol=1e-5)
    # Version 2 is asked for more windows, version 3 reads them for another set of targets.
    assert sum(built) == 300 + 304 + 300 + 4

    built.clear()
    members.predict(requests[:2])
    assert built == [256, 44]


def test_no_window_is_no_forecast(members):
    assert members.forecast(made(NAMES, count=0), 1).shape == (0, 3, 2, 3)


def test_a_target_that_a_version_does_not_know_is_not_a_number(members):
    found = members.forecast(made(NAMES, count=2), 3)
    assert np.isfinite(found[:, :, 0]).all()
    assert np.isnan(found[:, :, 1]).all()


def test_only_what_is_loaded_answers(members):
    with pytest.raises(UnknownVersion, match="version 7 is not loaded"):
        members.request(made(NAMES, count=1), 7)
    with pytest.raises(UnknownVersion):
        members.swap(7)
    assert members.champion is None


def test_the_newest_few_are_kept_and_the_champion_always(members):
    members.swap(1)
    members.load(4, artifact(4))
    members.load(5, artifact(5))
    assert [version for version in range(1, 6) if members.loaded(version)] == [1, 4, 5]


def test_versions_that_issue_are_never_pushed_out_and_those_that_no_longer_do_make_room():
    some, one = Members(schema=SCHEMA, context=8, horizon=3, levels=LEVELS, keep=1), artifact(1)
    for number in (1, 2):
        some.load(number, one, holding=(1, 2))
    some.swap(2, {"base": 1})
    assert list(some.issuing.items()) == [("champion", 2), ("base", 1)]
    some.load(3, one)
    assert [number for number in range(1, 4) if some.loaded(number)] == [1, 2, 3]
    with pytest.raises(UnknownVersion, match="version 4 is not loaded"):
        some.swap(3, {"previous_1": 4})
    assert some.champion == 2
    some.load(4, one, holding=(3,))
    some.swap(4, {"previous_1": 3})
    some.load(5, one)
    assert [number for number in range(1, 6) if some.loaded(number)] == [3, 4, 5]


def test_each_version_that_issues_forecasts_what_it_forecasts_alone(members):
    raw = made(NAMES, count=5)
    members.swap(2, {"base": 1})
    for name, values in members.of_record(raw).items():
        np.testing.assert_array_equal(values, members.forecast(raw, members.issuing[name]))
