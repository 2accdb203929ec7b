"""Config files: read, merged in layers, and explained when they are wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forecast.config import Config
from forecast.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config and where each value came from (`key.path` -> file name)."""

    config: Config
    origins: Mapping[str, str]

    def rows(self) -> list[tuple[str, str, str]]:
        """(key, value, origin) of every leaf; origin `default` when no file said it."""
        leaves = _leaves(self.config.model_dump(mode="json"))
        return [(key, repr(value), self.origins.get(key, "default")) for key, value in leaves]


def load(
    paths: Sequence[Path],
    *,
    data: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read and merge config files, later ones over earlier ones.

    They lie over what the `data` itself says, and `overrides` of the command line over all. Raises
    ConfigError naming the file and the key that is wrong.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers = [("data", dict(data))] if data else []
    layers += [(str(path), _read(path)) for path in paths]
    if overrides:
        layers.append(("command line", dict(overrides)))
    for source, layer in layers:
        _merge(merged, layer)
        origins.update((key, source) for key, _ in _leaves(layer))
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, layers)) from error
    return Loaded(config=config, origins=origins)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found += _leaves(value, f"{path}.") if isinstance(value, Mapping) else [(path, value)]
    return found


def _explain(
    error: ValidationError, origins: Mapping[str, str], layers: Sequence[tuple[str, Any]]
) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        known = [source for leaf, source in origins.items() if _covers(key, leaf)]
        source = known[-1] if known else " + ".join(name for name, _ in layers) or "config"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        lines.append(f"{source}: {key or 'config'}: {message}")
    return "\n".join(lines)


def _covers(key: str, leaf: str) -> bool:
    return leaf == key or leaf.startswith(f"{key}.") or key.startswith(f"{leaf}.")
