"""A model by hand goes the way that the fleet's own go. The real registry, no training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from actors import arguments
from actors.offline import train_and_judge
from forecast.audit import AuditLog
from forecast.evidence_files import EvidenceFiles
from forecast.registry import Registry
from tests.actors.scenario import ROLLOUT, small_config, small_replay
from tests.forecast.registry_scene import artifact
from tests.train.losses_scene import losses
from train.evidence import reproduce
from train.gate import Evidence
from train.jobs import Result

REPLAY = small_replay()
CLOSED = 1000


class _History:
    def status(self):
        return SimpleNamespace(closed_slot=CLOSED)

    def draw(self, **asked):
        return None

    def holdout(self, **asked):
        return None


class _Trainer:
    """Gives a model at once, which is judged by the losses that are told."""

    def __init__(self, fingerprint, told):
        self.fingerprint, self.told = fingerprint, told

    def train_base(self, job, windows, validation, start=None):
        made = artifact("by hand", kind=job.kind, fingerprint=self.fingerprint)
        return Result(job.update_id, job.kind, made, {})

    def judge(self, challenger, holdout, champion=None, anchor=None):
        return Evidence(losses=losses(self.told))


@pytest.mark.parametrize(
    ("rules", "told", "said"),
    [
        (ROLLOUT, {"challenger": -0.1, "champion": 0.0}, "accepted"),
        (ROLLOUT, {"challenger": 0.3, "champion": 0.0}, "rejected"),
        (ROLLOUT, {"challenger": 0.0}, "promoted"),  # the champion's are not finite
        (None, {"challenger": -0.1, "champion": 0.0}, "promoted"),
    ],
)
def test_what_passes_goes_the_way_that_the_settings_say(tmp_path, rules, told, said):
    config = small_config(tmp_path, REPLAY)
    fingerprint = config.panel.schema_of().fingerprint()
    given = arguments.registry(config)
    for name in ("evidence_slots", "owner", "segment_bytes"):
        del given[name]
    registry = Registry(audit=AuditLog(given.pop("audit_dir")), **given)
    base = artifact("u1", kind="base", fingerprint=fingerprint)
    registry.register(base, update_id="u1", slot=1)
    registry.promote(1, slot=1, reasons=("yes",), who="gate", update_id="u1")
    keep = EvidenceFiles(tmp_path / "evidence", keep_slots=9)
    version, verdict, report = train_and_judge(
        registry,
        _History(),
        _Trainer(fingerprint, told),
        replace(arguments.settings(config), rollout=rules),
        kind="base",
        who="ann",
        keep=keep.keep,
    )
    flight = registry.state().rollout.flight
    assert (version, verdict) == (2, said)
    assert registry.state().champion == (2 if said == "promoted" else 1)
    assert (None if flight is None else flight.version) == (2 if said == "accepted" else None)
    newest = registry.updates(limit=1)[0]
    assert newest.verdict == said
    detail = {"update_id": newest.update_id, "reasons": newest.reasons, "report": newest.report}
    kind = "reject" if said == "rejected" else "accept"
    data = keep.read(report["decided_from"]["evidence"], slot=CLOSED)
    assert reproduce(kind, detail, data).differs == ()
