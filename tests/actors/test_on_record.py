"""The registry's record, as its actor answers for it: no Ray."""

from __future__ import annotations

import pytest

from actors import arguments
from actors.record_commands import _kept
from actors.registry import RegistryActor
from forecast.config_files import leaves
from forecast.errors import AuditError, StateError, UnknownUpdate
from tests.actors.scenario import small_config, small_replay
from tests.forecast.registry_scene import artifact

REPLAY = small_replay()


def opened(folder, **learning):
    config = small_config(folder, REPLAY, **learning)
    return config, RegistryActor(**arguments.registry(config))


def told(config):
    return leaves(config.model_dump(mode="json"))


async def test_another_config_than_at_the_last_start_is_on_record_once(tmp_path):
    config, actor = opened(tmp_path)
    await actor.configured(told(config), "bootstrap")
    await actor.configured(told(config), "bootstrap")
    await actor.close()
    config, actor = opened(tmp_path, online_learning_rate=5e-4)
    await actor.configured(told(config), "ann")
    await actor.configured(told(config), "bob")
    first, _ = small_config(tmp_path, REPLAY), await actor.close()
    _, actor = opened(tmp_path)
    await actor.configured(told(first), "ann")
    found = await actor.audit(limit=10, kinds=["config"])
    key = "online_learning.online_learning_rate"
    assert [(record.who, record.detail["changed"]) for record in found] == [
        ("ann", {key: [5e-4, 1e-3]}),
        ("ann", {key: [1e-3, 5e-4]}),
        ("bootstrap", {}),
    ]
    assert found[0].detail["config"]["panel.horizon"] == 1800
    await actor.close()


async def test_the_record_is_read_by_page_and_verified_beside_what_is_written(tmp_path):
    _, actor = opened(tmp_path)
    for slot in range(5):
        await actor.note("drift", slot=slot, detail={"n": slot})
    assert [record.slot for record in await actor.audit(limit=2, before=4)] == [2, 1]
    assert [record.slot for record in await actor.audit(limit=9, since_slot=3)] == [4, 3]
    check = await actor.verify_audit(None)
    assert check.records == 5
    await actor.note("drift", slot=9, detail={})
    assert (await actor.verify_audit(check.head)).records == 6
    [path] = (tmp_path / "servers" / "audit").glob("*.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    with pytest.raises(AuditError, match="is missing; 5 are there"):
        await actor.verify_audit(check.head)
    await actor.close()


async def test_evidence_is_given_with_the_verdict_that_names_it_and_no_other(tmp_path):
    _, actor = opened(tmp_path)
    digest = await actor.keep_evidence(b"sums", slot=7)
    report = {"decided_from": {"evidence": digest}}
    refused = {"slot": 7, "reasons": ("worse",), "who": "gate"}
    await actor.reject(None, update_id="update-7", report=report, **refused)
    await actor.reject(None, update_id="update-8", **refused)
    record, data = await actor.evidence("update-7")
    assert (record.detail["update_id"], data) == ("update-7", b"sums")
    with pytest.raises(StateError, match="update-8: its record names no evidence"):
        await actor.evidence("update-8")
    with pytest.raises(UnknownUpdate, match="update-9"):
        await actor.evidence("update-9")
    assert (await actor.summary())["rejected"] == 2
    await actor.close()


async def rolled_out(actor, fingerprint, *, canary=False):
    """A base, and an update that the gate accepted at slot 5; its evidence is `sums`."""
    digest = await actor.keep_evidence(b"sums", slot=5)
    for version, slot in ((1, 1), (2, 5)):
        made = artifact(
            f"u{version}", kind="base" if version == 1 else "update", fingerprint=fingerprint
        )
        await actor.register(made, update_id=f"u{version}", slot=slot)
    told = {"reasons": ("yes",), "who": "gate"}
    await actor.promote(1, update_id="u1", slot=1, **told)
    report = {"decided_from": {"evidence": digest}, "relative_change": -0.1}
    await actor.accept(2, update_id="u2", slot=5, canary_share=0.1, report=report, **told)


LIVE = {"who": "rollout", "reasons": ("better live",), "report": {"change": -0.01}}


async def test_what_was_decided_stays_on_record_after_the_version_arrived_or_was_promoted_by_hand(
    tmp_path,
):
    config, actor = opened(tmp_path)
    await rolled_out(actor, config.panel.schema_of().fingerprint())
    await actor.arrive(2, slot=9, **LIVE)
    by_hand = {"who": "ann", "reason": "asked"}
    await actor.rollback(None, slot=11, key="r1", **by_hand)
    await actor.steer("promote", 2, expected=None, slot=12, key="r2", **by_hand)
    record, data = await actor.evidence("u2")
    assert (record.kind, record.slot, data) == ("accept", 5, b"sums")
    kind, detail, data = _kept(config.state_dir, config.panel.name, "u2")
    assert (kind, detail, data) == ("accept", record.detail, b"sums")
    told = await actor.summary()
    assert (told["accepted"], told["promoted"], told["last_accepted_slot"]) == (1, 3, 5)
    assert told["last_update"]["gain"] == 0.1
    assert [slot for slot, _, _ in told["history"]["verdicts"]] == [5, 1]
    await actor.close()


async def test_what_a_rollout_took_back_from_its_canary_counts_as_a_rollback_after_a_restart_too(
    tmp_path,
):
    config, actor = opened(tmp_path)
    await rolled_out(actor, config.panel.schema_of().fingerprint())
    await actor.advance(2, slot=7, **LIVE)
    assert (await actor.summary())["rollbacks"] == 0
    await actor.back(2, slot=9, **LIVE)
    await actor.note("drift", slot=10, detail={})
    await actor.pause(reason="audit", who="ann", slot=11)
    for _ in range(2):
        told = await actor.summary()
        assert (told["rollbacks"], told["history"]["rollbacks"]) == (1, [9])
        await actor.close()
        _, actor = opened(tmp_path)
    await actor.close()
