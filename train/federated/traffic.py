"""What a site has sent so far, and what compression saved and cost.

The cost is `Cost.difference`: how far what was sent is from the delta that was learned. Error
feedback makes up for it later, so over many updates it is noise more than a bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from forecast.tensors import dump, load
from train.federated.compression import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Counts of one site, or of several together.

    >>> Traffic().encoded(Cost(0.5, 0.001, 0.002)).told()["relative_error"]
    0.002
    """

    codec: str | None = None
    """Of the last update that was sent; None before any."""
    bytes_sent: int = 0
    bytes_float32: int = 0
    """What they would have been."""
    differences: float = 0.0
    """The sum of `Cost.difference` over the encoded updates."""
    measured: int = 0
    """Updates of which it was measured."""

    def encoded(self, cost: Cost) -> Self:
        """With one more update that was encoded."""
        total = self.differences + cost.difference
        return replace(self, differences=total, measured=self.measured + 1)

    def sent(self, update: bytes) -> Self:
        """With one more update that was sent and answered, as `forecast.tensors.dump` made it."""
        header, arrays = load(update)
        whole = np.zeros(arrays["values"].shape, np.float32)
        return replace(
            self,
            codec=header["codec"],
            bytes_sent=self.bytes_sent + len(update),
            bytes_float32=self.bytes_float32
            + len(dump({**header, "codec": "float32"}, {"values": whole})),
        )

    @classmethod
    def together(cls, sites: Iterable[Traffic]) -> Self:
        """Of several sites."""
        every = list(sites)
        return cls(
            codec=next((one.codec for one in reversed(every) if one.codec), None),
            bytes_sent=sum(one.bytes_sent for one in every),
            bytes_float32=sum(one.bytes_float32 for one in every),
            differences=sum(one.differences for one in every),
            measured=sum(one.measured for one in every),
        )

    def told(self) -> dict[str, Any]:
        """As flat JSON; `relative_error` is the mean difference, None before one was measured."""
        return {
            "codec": self.codec,
            "bytes_sent": self.bytes_sent,
            "bytes_float32": self.bytes_float32,
            "relative_error": self.differences / self.measured if self.measured else None,
        }

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for a state file."""
        return asdict(self)

    @classmethod
    def of_before(cls, bytes_sent: int) -> Self:
        """Of a state file that says nothing but the bytes: as if nothing had been saved."""
        return cls(bytes_sent=bytes_sent, bytes_float32=bytes_sent)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**given)
