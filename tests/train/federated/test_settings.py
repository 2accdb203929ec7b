"""Settings that make no sense are refused with their numbers."""

from __future__ import annotations

import pytest

from train.federated.settings import AggregatorSettings


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"trim": 0.5}, "trim 0.5 is not between 0 and 0.5"),
        ({"momentum": 1.0}, "momentum 1.0 and beta2 0.99 are in"),
        ({"learning_rate": 0.0}, "learning_rate 0.0, tau 0.1"),
        ({"quorum": 0}, "quorum 0 starts at 1"),
        ({"reservoir": -1}, "reservoir -1 starts at 1"),
        ({"clip_quantile": 1.0}, "clip_quantile 1.0 is in"),
        ({"step_cap": -1.0}, "step_cap -1.0 starts at 0"),
        ({"most_staleness": -1}, "most_staleness -1 and"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        AggregatorSettings(**wrong)
