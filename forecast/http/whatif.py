"""Windows from values that came with a request: forecasts of what was never ingested.

Legend: N windows, L context slots, H horizon slots, M metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from forecast.clock import slots_per_day
from forecast.config import seconds
from forecast.errors import Unprocessable
from forecast.http.queries import InlineContext
from forecast.windows import RawWindows

_DAYS_A_WEEK = 7
_FARTHEST_YEAR = 2200


def windows(contexts: Sequence[InlineContext], like: RawWindows) -> tuple[RawWindows, list[str]]:
    """One window per server, shaped like `like`, and what of the contexts was not used.

    A window ends with the server's latest slot given. Raises Unprocessable for another step, an
    unknown time zone, or one metric of a server given twice.
    """
    servers: dict[str, list[InlineContext]] = {}
    warnings = []
    for place, context in enumerate(contexts):
        _check(place, context, like.step_seconds)
        of_server = servers.setdefault(context.server, [])
        if any(known.metric == context.metric for known in of_server):
            raise Unprocessable(
                f"context.{place}: {context.metric!r:.80} of {context.server!r:.80} is given twice"
            )
        of_server.append(context)
        if context.metric not in like.metrics:
            warnings.append(f"context.{place}: metric {context.metric!r:.80} is not known here")
    parts = [_window(name, given, like) for name, given in servers.items()]
    return RawWindows.concat(parts), warnings


def _check(place: int, context: InlineContext, step_seconds: int) -> None:
    if seconds(context.step) != step_seconds:
        raise Unprocessable(
            f"context.{place}: step is {context.step}, but this panel's is {step_seconds}s"
        )
    if not 1970 < context.start.year < _FARTHEST_YEAR:
        raise Unprocessable(
            f"context.{place}: start must lie between 1971 and {_FARTHEST_YEAR}, not in "
            f"{context.start.year}"
        )
    try:
        ZoneInfo(context.timezone)
    except (KeyError, ValueError, OSError) as error:
        raise Unprocessable(
            f"context.{place}: timezone {context.timezone!r:.80} is not an IANA name"
        ) from error


def _window(name: str, contexts: Sequence[InlineContext], like: RawWindows) -> RawWindows:
    """The window of one server; what its values do not reach is a gap."""
    step, length = like.step_seconds, like.context + like.horizon
    firsts = [int(context.start.timestamp() // step) for context in contexts]
    pairs = zip(firsts, contexts, strict=True)
    origin = max(first + len(context.values) for first, context in pairs) - 1
    slots = np.arange(origin - like.context + 1, origin + like.horizon + 1)
    day = slots_per_day(step)
    shape = (1, length, len(like.metrics))
    values, daily, weekly = (np.full(shape, np.nan, np.float32) for _ in range(3))
    for first, context in zip(firsts, contexts, strict=True):
        if context.metric not in like.metrics:
            continue
        column = like.metrics.index(context.metric)
        given = np.array([np.nan if v is None else v for v in context.values], np.float64)
        given[np.abs(given) > np.finfo(np.float32).max] = np.nan  # a window could not hold it
        values[0, :, column] = _at(given, slots - first)
        daily[0, :, column] = _at(given, slots - first - day)
        weekly[0, :, column] = _at(given, slots - first - _DAYS_A_WEEK * day)
    return RawWindows(
        servers=(name,),
        roles=(next((context.role for context in contexts if context.role), ""),),
        timezones=(next((c.timezone for c in contexts if c.timezone != "UTC"), "UTC"),),
        metrics=like.metrics,
        context=like.context,
        horizon=like.horizon,
        step_seconds=step,
        origin=np.array([origin], np.int64),
        values=values,
        daily=daily,
        weekly=weekly,
        spread=np.full((1, len(like.metrics)), np.nan, np.float32),
    )


def _at(given: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """The values at these places; NaN where there is none."""
    inside = (places >= 0) & (places < len(given))
    return np.where(inside, given[np.clip(places, 0, len(given) - 1)], np.nan)
