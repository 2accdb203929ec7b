"""The strict check of a deploy file: Serve drops keys it does not know without a word.

The file is held against Serve's own models key by key, its arguments against the config tree, and
where it listens against who may call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from actors import exposure
from actors.plan import plan_of
from forecast.config import Config
from forecast.config_files import load_args
from forecast.errors import ConfigError
from forecast.http.auth import Guard

IMPORT_PATH = "serve_app:build"
DEPLOYMENTS = ("Bootstrap", "Forecaster", "Gateway", "Ingest")
"""What the application consists of."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A deploy file that Serve will take as it is written."""

    fleets: tuple[Config, ...]
    """The config of each of its applications."""


def check(path: Path) -> Checked:
    """Read and check a deploy file; raises ConfigError with a line for each thing that is wrong.

    The files that it names, configs and TLS, are looked for on this machine.
    """
    tree = _read(path)
    wrong = list(unknown_keys(tree, ServeDeploySchema))
    try:
        deploy = ServeDeploySchema.model_validate(tree)
    except ValidationError as error:
        wrong += [f"{_path(one['loc'])}: {_said(one['msg'])}" for one in error.errors()]
        deploy = None
    fleets: list[Config] = []
    for place, application in enumerate(deploy.applications if deploy is not None else ()):
        try:
            fleets.append(_application(application, f"applications.{place}"))
        except ConfigError as error:
            wrong += str(error).splitlines()
    if deploy is not None:
        wrong += _listens(deploy.http_options, fleets)
    if wrong:
        raise ConfigError("\n".join(f"{path}: {line}" for line in dict.fromkeys(wrong)))
    return Checked(tuple(fleets))


def unknown_keys(value: Any, kind: Any, at: str = "") -> Iterator[str]:
    """A line for each key below `value` that the model `kind` does not know.

    `kind` may be any annotation of a field. What Serve itself keeps as a free mapping is not looked
    into, but for runtime environments.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        yield from unknown_keys(value, get_args(kind)[0], at)
    elif isinstance(value, Mapping):
        model = _model(kind)
        if model is None:
            return
        for key, held in value.items():
            where = f"{at}.{key}" if at else str(key)
            field = model.model_fields.get(key)
            if field is None:
                yield f"{where}: unknown key; Serve would drop it. There are {_names(model)}"
            elif key == "runtime_env" and isinstance(held, Mapping):
                known = {name for name in RuntimeEnv.known_fields if not name.startswith("_")}
                yield from (f"{where}.{one}: unknown key" for one in held if one not in known)
            else:
                yield from unknown_keys(held, field.annotation, where)
    elif isinstance(value, list):
        inner = next((get_args(one)[0] for one in _options(kind) if get_origin(one) is list), None)
        for place, one in enumerate(value):
            yield from unknown_keys(one, inner, f"{at}.{place}")


def _options(kind: Any) -> tuple[Any, ...]:
    """What a field may hold: the parts of a union, or the one type."""
    if get_origin(kind) in (list, dict, None):
        return (kind,)
    return tuple(one for one in get_args(kind) if one is not NoneType)


def _model(kind: Any) -> type[BaseModel] | None:
    """The model that a mapping is read as: of a union of a mapping and a model, the model."""
    for one in _options(kind):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _names(model: type[BaseModel]) -> str:
    return ", ".join(sorted(model.model_fields))


def _twice(node: yaml.Node | None) -> Iterator[str]:
    """A line for each key that stands twice in one mapping: YAML would take the last one."""
    if isinstance(node, yaml.SequenceNode):
        for held in node.value:
            yield from _twice(held)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, held in node.value:
            if key.value in seen:
                yield f"line {key.start_mark.line + 1}: key {key.value!r} stands twice"
            seen.add(str(key.value))
            yield from _twice(held)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
        twice = [f"{path}: {line}" for line in _twice(yaml.compose(text, yaml.SafeLoader))]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if twice:
        raise ConfigError("\n".join(twice))
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}: must hold keys such as `applications`")
    return tree


def _application(application: ServeApplicationSchema, at: str) -> Config:
    """The config of an application of ours; raises ConfigError with a line for each error."""
    if application.import_path != IMPORT_PATH:
        raise ConfigError(
            f"{at}.import_path: {application.import_path!r} is not ours, which is {IMPORT_PATH}"
        )
    wrong = [
        f"{at}.deployments.{place}.name: no deployment {deployment.name!r}; there are "
        f"{', '.join(DEPLOYMENTS)}"
        for place, deployment in enumerate(application.deployments)
        if deployment.name not in DEPLOYMENTS
    ]
    try:
        config = load_args(application.args).config
        wrong += plan_of(config).over()
    except ConfigError as error:
        config, wrong = None, [*wrong, *(f"{at}.args: {line}" for line in str(error).splitlines())]
    if wrong or config is None:
        raise ConfigError("\n".join(wrong))
    return config


def _listens(http: HTTPOptionsSchema, fleets: list[Config]) -> Iterator[str]:
    """What is wrong with where it listens, for those that may call."""
    if http.ssl_certfile and not http.ssl_keyfile:
        yield "http_options.ssl_keyfile: is missing"
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        named = getattr(http, name)
        if named and not Path(named).is_file():
            yield f"http_options.{name}: {named} is no file"
    tls = bool(http.ssl_certfile and http.ssl_keyfile)
    found = exposure.Exposure(host=http.host, tls=tls, haproxy=False, direct=False, ray_token=True)
    for config in fleets:
        told = config.serve
        try:
            exposure.check(told, found)
            # A token file that is not here may be where the fleet runs: that it is named counts.
            if told.tokens_file is None or told.tokens_file.is_file():
                Guard.from_config(told)
        except ConfigError as error:
            yield f"http_options: fleet {config.fleet}: {error}"
        for name, path in (("tls_certificate", told.tls_certificate), ("tls_key", told.tls_key)):
            if path is not None and not path.is_file():
                yield f"fleet {config.fleet}: serve.{name}: {path} is no file"


def _path(parts: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in parts) or "the file"


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")
