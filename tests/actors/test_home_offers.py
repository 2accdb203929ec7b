"""What the home site offers stays until another one is offered, also after a restart."""

from __future__ import annotations

import pytest

from actors.home_offers import Offer, Offers
from forecast.artifact import Artifact
from forecast.errors import NothingNew


def offer(version: int, fingerprint: str = "f") -> Offer:
    """One of a version, told apart by its weights."""
    manifest = {"fingerprint": fingerprint, "lineage": {"federated": {"version": version}}}
    return Offer(version, 100 + version, Artifact(manifest, b"weights of %d" % version))


def test_what_was_offered_stays_while_newer_ones_are_made(tmp_path):
    offers = Offers(tmp_path, fingerprint="f")
    assert (offers.version, offers.offer(None)) == (None, None)
    offers.make(offer(1))
    assert offers.offer(None) == {"version": 1, "slot": 101}
    offers.make(offer(2))
    for again in (offers, Offers(tmp_path, fingerprint="f")):
        assert again.version == 2
        assert again.offered(1) == offer(1).artifact
    assert offers.offer(1) == {"version": 2, "slot": 102}
    assert offers.offer(2) is None
    with pytest.raises(NothingNew, match="global version 1 no more, but version 2"):
        offers.offered(1)


def test_one_that_is_damaged_or_of_another_schema_is_left_out(tmp_path, caplog):
    offers = Offers(tmp_path, fingerprint="f")
    offers.make(offer(1))
    offers.offer(None)
    (tmp_path / "newest.offer").write_bytes(b"half")
    again = Offers(tmp_path, fingerprint="f")
    assert again.version is None
    assert again.offered(1) == offer(1).artifact
    assert "is made again" in caplog.text
    other = Offers(tmp_path, fingerprint="another")
    with pytest.raises(NothingNew, match="but none"):
        other.offered(1)
