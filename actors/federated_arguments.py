"""What a federation's actor and sites are constructed from: `[federated]` taken apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from forecast.config import Config
from forecast.errors import ConfigError
from forecast.model import ModelSpec
from forecast.window_spec import WindowSpec
from train.federated.federation import FederationRules
from train.federated.frame import SiteSettings
from train.federated.settings import AggregatorSettings
from train.federated.verdict import VerdictRules
from train.recipes import Recipe


def aggregator(config: Config) -> dict[str, Any]:
    """Constructor arguments of FederationActor, but for the registry."""
    asked = config.federated
    same = ("rule", "trim", "optimizer", "learning_rate", "quorum", "per_site", "most_staleness")
    return {
        "directory": config.panel_dir / "federated",
        "owner": f"fleet {config.fleet}",
        "schema": config.panel.schema_of(),
        "spec": spec_of(config),
        "seed": config.training.seed,
        "settings": AggregatorSettings(
            **{name: getattr(asked, name) for name in same},
            updates=asked.updates_per_round,
            deadline_s=float(asked.deadline),
            gated=asked.gated,
            forget_after=asked.keep_rounds,
            seed=config.training.seed,
        ),
        "rules": FederationRules(
            verdict=VerdictRules(quorum=asked.quorum, worse=asked.worse),
            score_deadline_s=float(asked.score_deadline),
            decay_rounds=asked.decay_rounds,
            codec=asked.compression,
            keep_rounds=asked.keep_rounds,
        ),
        "now": time.time,
        "sites": asked.sites,
    }


def home(config: Config) -> dict[str, Any]:
    """Constructor arguments of SiteActor; raises ConfigError where the fleet is no site."""
    asked, panel, recipes = config.federated.home, config.panel, site(config)
    if asked.site is None:
        raise ConfigError("federated.home.site is not set: the fleet is no site")
    # What the gate holds out the site must not have learned from either.
    settings = recipes["settings"]
    held = max(settings.holdout_hours, config.online_learning.gate_holdout_hours)
    per_hour = 3600 / panel.step
    least = round(held * per_hour) + panel.context_slots + 2 * panel.horizon_slots
    return {
        "fleet": config.fleet,
        "panel": panel.name,
        "directory": config.panel_dir / "home",
        "owner": f"fleet {config.fleet}",
        "aggregator": asked.aggregator,
        "schema": panel.schema_of(),
        "spec": spec_of(config),
        "seed": config.training.seed,
        "home": {
            "name": asked.site,
            "per_server": asked.per_server,
            "every": max(1, asked.every // panel.step),
            "needs": max(least, round(config.training.bootstrap_hours * per_hour)),
            "recipes": {**recipes, "settings": replace(settings, holdout_hours=held)},
        },
    }


def spec_of(config: Config, roles: Sequence[str] | None = None) -> ModelSpec:
    """The network as the config says it, whatever data there is: what sites share.

    `roles` stand in for those of the config.
    """
    panel, schema = config.panel, config.panel.schema_of()
    known = (config.model.roles or ()) if roles is None else roles
    window = WindowSpec(
        step_seconds=panel.step,
        context=panel.context_slots,
        horizon=panel.horizon_slots,
        metrics=schema.metrics,
        targets=schema.targets,
        roles=("", *known),
    )
    network = config.model.model_dump(exclude={"roles"})
    return ModelSpec(window=window, quantiles=panel.quantiles, **network)


def site(config: Config) -> dict[str, Any]:
    """Keyword arguments of `train.federated.site.Site` that every site of a config shares."""
    asked = config.federated.site
    return {
        "start": {},  # what is private is a correction, which begins as none
        "shared": Recipe(
            learning_rate=asked.learning_rate,
            epochs=asked.epochs,
            proximal_weight=asked.proximal_weight,
            batch_size=asked.batch_size,
            gradient_clip=asked.gradient_clip,
        ),
        "own": Recipe(
            moving="adapter",
            learning_rate=asked.own_learning_rate,
            epochs=asked.own_epochs,
            warm_restart_steps=max(1, asked.own_epochs * asked.own_windows // asked.batch_size),
            batch_size=asked.batch_size,
            gradient_clip=asked.gradient_clip,
        ),
        "settings": SiteSettings(
            hours=asked.hours,
            windows=asked.windows,
            holdout_hours=asked.holdout_hours,
            own_windows=asked.own_windows,
        ),
    }
