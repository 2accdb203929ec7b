"""The configs that benches begin with."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

LAPTOP = _ROOT / "configs" / "laptop.toml"
"""What `make run` uses."""
OFTEN = (LAPTOP, _ROOT / "bench" / "often.toml")
"""The same with many updates in few days."""
