"""The anchor: which version it is, and that it stays as long as it is."""

from __future__ import annotations

from tests.forecast.registry_scene import add, folders, open_registry


def verdict(registry, verdict, update_id, *, slot, anchor):
    """Register an update and decide on it, the anchor in the same record; gives its version."""
    version = add(registry, update_id, slot=slot, promote=False)
    given = {"reasons": ("so",), "who": "gate", "update_id": update_id, "anchor": anchor}
    {"promote": registry.promote, "reject": registry.reject}[verdict](version, slot=slot, **given)
    return version


def test_the_anchor_is_the_base_until_a_verdict_names_another(tmp_path):
    registry = open_registry(tmp_path, keep=2)
    assert registry.state().anchor is None
    base = add(registry, "b", slot=1, kind="base")
    assert registry.state().anchor == base
    two = add(registry, "u2", slot=2)
    before = registry.state().revision
    verdict(registry, "reject", "u3", slot=3, anchor=two)
    assert registry.state().aliases["anchor"] == registry.state().anchor == two
    assert registry.state().revision == before + 2  # registered, refused: the anchor in one record
    assert open_registry(tmp_path).state() == registry.state()


def test_the_anchor_is_kept_however_many_are_promoted_after_it(tmp_path):
    registry = open_registry(tmp_path, keep=2)
    base = add(registry, "b", slot=1, kind="base")
    anchor = verdict(registry, "promote", "u2", slot=2, anchor=2)
    for number in range(3, 9):
        verdict(registry, "promote", f"u{number}", slot=number, anchor=None)
    assert folders(tmp_path) == [base, anchor, 7, 8]
    assert registry.load(anchor) is not None


def test_a_rollback_past_the_anchor_makes_that_version_the_anchor(tmp_path):
    registry = open_registry(tmp_path, keep=5)
    one = add(registry, "b", slot=1, kind="base")
    two = verdict(registry, "promote", "u2", slot=2, anchor=None)
    three = verdict(registry, "promote", "u3", slot=3, anchor=3)
    assert registry.state().anchor == three
    state = registry.rollback(slot=4, who="ann", reason="bad night")
    assert (state.champion, state.anchor) == (two, two)
    assert registry.rollback(one, slot=5, who="ann", reason="again").anchor == one


def test_a_version_that_does_not_serve_or_is_gone_never_becomes_the_anchor(tmp_path):
    registry = open_registry(tmp_path, keep=5)
    base = add(registry, "b", slot=1, kind="base")
    two = add(registry, "u2", slot=2)
    registry.rollback(slot=3, who="ann", reason="while an update was judged")
    verdict(registry, "reject", "u3", slot=4, anchor=two)
    verdict(registry, "reject", "u4", slot=5, anchor=99)
    assert registry.state().anchor == base
