"""What the learner's keys of `[online_learning]` do: each changes the update, and only when set."""

from __future__ import annotations

import pytest

from actors import arguments
from forecast.config import Config
from tests.train.windows_scene import model, windows
from train.learner import Learner, Update

PANEL = {"targets": ["cpu"], "metrics": [{"name": "cpu"}]}
DRIFT = "drift_learning_rate_factor"


def update(*, drifted: bool = False, **online) -> Update:
    given = {"online_batch_size": 12, "online_epochs": 1, **online}
    config = Config.model_validate({"state_dir": "s", "panel": PANEL, "online_learning": given})
    learner = Learner.of({**arguments.trainer(config)["learner"], "threads": 1})
    return learner.update(model(), windows(24), seed=1, drifted=drifted)


def weights(made: Update) -> list[bytes]:
    return [each.numpy().tobytes() for each in made.model.weights().values()]


@pytest.fixture(scope="module")
def usual() -> Update:
    return update()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("moving", "last_layers"),
        ("moving", "adapter"),
        ("micro_batch_size", 5),
        ("warm_restart_steps", 2),
        ("ewc_weight", 10.0),
        ("distillation_weight", 1.0),
    ],
)
def test_each_key_changes_what_is_learned(usual, key, value):
    assert weights(update(**{key: value})) != weights(usual)


def test_how_fast_old_batches_lose_their_say_changes_the_springs():
    assert weights(update(ewc_weight=10.0, ewc_decay=0.1)) != weights(update(ewc_weight=10.0))


def test_the_factor_of_the_rate_holds_after_a_drift_alone(usual):
    assert weights(update(drifted=True)) == weights(usual) == weights(update(**{DRIFT: 2.0}))
    quick = update(**{DRIFT: 2.0}, drifted=True)
    assert weights(quick) != weights(usual)
    assert quick.report.learning_rate == 2 * usual.report.learning_rate


def test_by_itself_the_whole_model_moves_and_nothing_holds_it_back(usual):
    assert usual.report.moving == "full"
    assert set(usual.report.losses) == {"pinball"}
    assert usual.report.learning_rate == usual.report.lowest_learning_rate == 1e-3


def test_without_an_automatic_way_back_the_twin_only_tells():
    given = {"state_dir": "s", "panel": PANEL, "online_learning": {"enable_rollback": False}}
    told, acts = (
        arguments.settings(Config.model_validate(one))
        for one in (given, {**given, "online_learning": {}})
    )
    assert (told.twin_hours, acts.twin_hours) == (0, 72)
    assert told.twin_share == acts.twin_share > 0
