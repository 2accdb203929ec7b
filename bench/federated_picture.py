"""The picture of the federated demo: each site's losses by version, both ways, as an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT = 340, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 40, 44
_WAYS = {"alone": "#e15759", "global": "#4e79a7", "personal": "#59a14f", "mixed": "#b07aa1"}


def draw(path: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the picture: a panel a site, WQL on days that nobody learned from, by version."""
    width = _WIDTH * len(curves)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT + 30}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{_HEIGHT + 30}" fill="white"/>',
    ]
    for place, (site, lines) in enumerate(curves.items()):
        parts += _panel(place * _WIDTH, site, lines)
    for place, (way, colour) in enumerate(_WAYS.items()):
        at = _LEFT + 90 * place
        parts.append(f'<rect x="{at}" y="{_HEIGHT + 8}" width="18" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{at + 24}" y="{_HEIGHT + 14}">{way}</text>')
    said = (
        "WQL on later days, by accepted global version; alone: shared with nobody; mixed: each "
        "server's mix of them"
    )
    at = _LEFT + 90 * len(_WAYS)
    parts.append(f'<text x="{at}" y="{_HEIGHT + 14}" fill="#666666">{said}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _panel(left: int, site: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    values: list[float] = [
        line[way] for line in lines for way in _WAYS if line.get(way) is not None
    ]
    low, high = min(values), max(values)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low) or 1.0
    last = max(1, len(lines) - 1)

    def x(turn: int) -> float:
        return left + _LEFT + turn / last * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text x="{left + _LEFT}" y="24" font-size="14">{escape(site)}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = low + share * (high - low)
        parts.append(
            f'<line x1="{x(0):.1f}" y1="{y(value):.1f}" x2="{x(last):.1f}" y2="{y(value):.1f}" '
            'stroke="#dddddd"/>'
        )
        parts.append(f'<text x="{left + 6}" y="{y(value) + 4:.1f}">{value:.3f}</text>')
    for turn, line in enumerate(lines):
        if turn % max(1, last // 6) == 0:
            parts.append(
                f'<text x="{x(turn) - 3:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{line["version"]}</text>'
            )
    for way, colour in _WAYS.items():
        points = " ".join(
            f"{x(turn):.1f},{y(line[way]):.1f}"
            for turn, line in enumerate(lines)
            if line.get(way) is not None
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
    return parts
