"""A picture of the bench of online learning: each row's WQL by day, as an SVG without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 1000, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 190, 40, 60
_COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#9c755f", "#b07aa1", "#edc948", "#76b7b2",
    "#333333",
)  # fmt: skip


def draw(
    path: Path,
    title: str,
    days: Sequence[int],
    rows: Mapping[str, Sequence[float]],
    marks: Sequence[tuple[float, str]],
    updates: Sequence[tuple[float, bool]],
) -> None:
    """Write the picture: one line per row, `rows` name -> WQL by day (NaN: none).

    `days` count from 1970. `marks` are (day, what begins there); `updates` are (day, whether it was
    promoted), short strokes at the bottom.
    """
    first, last = min(days), max(days) + 1
    # Twice the middle of the worst row: a few bad days of a baseline must not flatten the others.
    medians = [np.median(known) for known in map(_finite, rows.values()) if known.size]
    top = 2 * float(max(medians, default=0.0)) or 1.0

    def x(day: float) -> float:
        return _LEFT + (day - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - min(value / top, 1.0) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = y(share * top)
        parts.append(_stroke(_LEFT, at, _WIDTH - _RIGHT, at, "#dddddd"))
        parts.append(f'<text x="6" y="{at + 4:.1f}">{share * top:.3g}</text>')
    for day in range(first, last, max(1, (last - first) // 8)):
        date = str(np.datetime64(day, "D"))
        parts.append(f'<text x="{x(day):.1f}" y="{_HEIGHT - _BOTTOM + 34}">{date}</text>')
    for place, (moment, what) in enumerate(marks):
        parts.append(_stroke(x(moment), _TOP, x(moment), _HEIGHT - _BOTTOM, "#888888", "4 3"))
        height = _TOP + 12 * (place % 4)
        parts.append(
            f'<text x="{x(moment) + 3:.1f}" y="{height}" fill="#666666">{escape(what)}</text>'
        )
    for moment, promoted in updates:
        colour, low = ("#2a8f2a", 16) if promoted else ("#c8c8c8", 9)
        foot = _HEIGHT - _BOTTOM + 3
        parts.append(_stroke(x(moment), foot, x(moment), foot + low, colour))
    for place, (name, values) in enumerate(rows.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        points = [
            f"{x(day + 0.5):.1f},{y(value):.1f}"
            for day, value in zip(days, values, strict=True)
            if np.isfinite(value)
        ]
        line = " ".join(points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        height = _TOP + 18 * place
        parts.append(_stroke(_WIDTH - 180, height, _WIDTH - 160, height, colour))
        parts.append(f'<text x="{_WIDTH - 154}" y="{height + 4}">{escape(name)}</text>')
    legend = _HEIGHT - 8
    parts.append(
        f'<text x="{_LEFT}" y="{legend}" fill="#666666">WQL by day; below: updates, '
        "promoted long and green; dashed: what the scenario changes; flat at the top: beyond</text>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    known = np.array(values, np.float64)
    return known[np.isfinite(known)]


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'
    )
