"""Appends on their way to the buffer: few bytes at a time, none more while it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from forecast.errors import Busy, StateError
from forecast.http.ingest import Kept
from forecast.in_flight import InFlight
from forecast.schema import SampleBlock

_PATIENCE_S = 5.0


class Appends:
    """Hands blocks to a buffer and bounds what waits for it.

    A call that takes too long is answered with Busy, but stays under way: its bytes count until the
    buffer, or its end, answers it. Until then every other is refused at once. So a buffer that
    stopped costs what was on its way to it when it did, and no more.
    """

    def __init__(
        self,
        append: Callable[[str, SampleBlock], Awaitable[Kept]],
        *,
        limit_bytes: int,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """`append` has no time limit of its own: only its end says that nothing waits any more."""
        self._append = append
        self._in_flight = InFlight(limit_bytes)
        self._patience_s = patience_s
        self._unanswered: set[asyncio.Future[Kept]] = set()

    @property
    def nbytes(self) -> int:
        """Bytes on their way to the buffer."""
        return self._in_flight.nbytes

    async def append(self, request_id: str, block: SampleBlock) -> Kept:
        """Keep a block; the same request id may be sent again, whatever became of the first.

        Raises Busy when too much waits already, or the buffer does not answer or cannot write.
        """
        if self._unanswered:
            raise Busy("the buffer does not answer", retry_after_s=5)
        nbytes = _size(block)
        self._in_flight.take(nbytes)
        call = asyncio.ensure_future(self._append(request_id, block))

        def ended(_: asyncio.Future[Kept]) -> None:
            self._in_flight.give_back(nbytes)
            self._unanswered.discard(call)
            if not call.cancelled():
                call.exception()  # nobody may be left to take it

        call.add_done_callback(ended)
        await asyncio.wait([call], timeout=self._patience_s)
        if not call.done():
            self._unanswered.add(call)
            raise Busy("the buffer does not answer", retry_after_s=5)
        try:
            return call.result()
        except Busy as error:
            # Made anew: Ray's copy of an error cannot be told from others after a second crossing.
            raise Busy(error.detail, retry_after_s=error.retry_after_s) from None
        except StateError as error:
            # What is wrong is in the buffer's log; the rows may be sent again.
            raise Busy("the buffer cannot write now", retry_after_s=5) from error


def _size(block: SampleBlock) -> int:
    arrays = (block.server_index, block.metric_index, block.time_ms, block.value, block.row_index)
    return sum(array.nbytes for array in arrays if array is not None)
