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
        values = leaves(self.config.model_dump(mode="json"))
        origin = self.origins.get
        return [(key, repr(value), origin(key, "default")) for key, value in values.items()]


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
        origins.update(dict.fromkeys(leaves(layer), source))
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, layers)) from error
    return Loaded(config=config, origins=origins)


def load_args(args: Mapping[str, Any]) -> Loaded:
    """The config that the arguments of a deploy file, or of `serve run`, name.

    `config` is a path or a list of them, `overrides` holds keys over those of the files, `revision`
    is any text. Raises ConfigError for anything else.
    """
    if unknown := sorted(set(args) - {"config", "overrides", "revision"}):
        raise ConfigError(f"args.{unknown[0]}: unknown key")
    named = args.get("config")
    paths = [named] if isinstance(named, str) else named
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ConfigError("args.config: must name a file, or a list of them")
    overrides = args.get("overrides") or {}
    if not isinstance(overrides, Mapping):
        raise ConfigError("args.overrides: must hold sections, as a config file does")
    return load([Path(path) for path in paths], overrides=overrides)


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


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config tree by their path.

    >>> leaves({"fleet": "a", "panel": {"step": 300}})
    {'fleet': 'a', 'panel.step': 300}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found.update(leaves(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
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
