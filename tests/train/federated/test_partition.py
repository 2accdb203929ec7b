"""What is shared, what stays at home, and where it lies in the vector that travels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecast.model import with_weights
from tests.train.windows_scene import model, spec
from train.federated.partition import DEFAULT_RULES, ROLE_TABLE, Layout, Scope, scope_of

RULES = [("body.*", Scope.GLOBAL), ("table", Scope.ROLE), ("head.*", Scope.PRIVATE)]


def small_state() -> dict[str, np.ndarray]:
    return {
        "head.weight": np.full(3, 9, np.float32),
        "body.b": np.arange(4, dtype=np.float32).reshape(2, 2),
        "body.a": np.array([7], np.float32),
        "table": np.array([[0, 0], [1, 1], [2, 2]], np.float32),
    }


def small_layout() -> Layout:
    return Layout.of(small_state(), rules=RULES, categories={"table": ("", "web", "db")})


def whole_network() -> Layout:
    return Layout.of(model().weights(), categories={ROLE_TABLE: spec().window.roles})


def test_the_default_rules_speak_of_every_parameter_of_the_network():
    layout = whole_network()
    every = sum(each.numel() for each in model().weights().values())
    assert sum(layout.counts.values()) == every
    assert all(layout.counts[scope] > 0 for scope in Scope)


def test_an_adapter_stays_at_home():
    adapted = model()
    adapted.adapter = adapted.fresh_adapter()
    layout = Layout.of(adapted.weights(), categories={ROLE_TABLE: spec().window.roles})
    assert "adapter.weight" in layout.private_names
    assert layout.schema_hash == whole_network().schema_hash


def test_the_output_layer_and_the_scalers_stay_at_home():
    names = set(whole_network().private_names)
    assert {name for name in model().weights() if name.startswith("output_layer")} <= names
    assert {name for name in model().weights() if "prescalers" in name} <= names
    assert scope_of("input_embeddings.embeddings.static_server.weight", DEFAULT_RULES) is (
        Scope.PRIVATE
    )


def test_a_parameter_that_no_rule_speaks_of_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"no rule says who shares 'elsewhere\.weight'"):
        Layout.of({"elsewhere.weight": np.zeros(1, np.float32)})


def test_the_first_rule_that_matches_decides():
    rules = [("body.a", Scope.PRIVATE), *RULES]
    assert scope_of("body.a", rules) is Scope.PRIVATE
    assert scope_of("body.b", rules) is Scope.GLOBAL


def test_the_order_of_a_state_dict_changes_neither_hash_nor_vector():
    state = small_state()
    turned = dict(reversed(state.items()))
    one = small_layout()
    other = Layout.of(turned, rules=RULES, categories={"table": ("", "db", "web")})
    assert one.schema_hash == other.schema_hash
    names = {"table": ("", "web", "db")}
    assert (one.flatten(state, categories=names) == other.flatten(turned, categories=names)).all()


def test_another_shape_name_or_category_is_another_hash():
    state, names = small_state(), {"table": ("", "web", "db")}
    changed = [
        Layout.of({**state, "body.a": np.zeros(2, np.float32)}, rules=RULES, categories=names),
        Layout.of({**state, "body.c": np.zeros(1, np.float32)}, rules=RULES, categories=names),
        Layout.of(state, rules=RULES, categories={"table": ("", "web", "cache")}),
    ]
    hashes = {small_layout().schema_hash, *(each.schema_hash for each in changed)}
    assert len(hashes) == 4


def test_a_whole_network_comes_back_bitwise_and_computes():
    layout, weights = whole_network(), model(seed=3).weights()
    names = {ROLE_TABLE: spec().window.roles}
    shared = layout.flatten(weights, categories=names)
    state = layout.compose(shared, layout.private(weights), categories=names)
    assert set(state) == set(weights)
    assert all((state[name] == weights[name].numpy()).all() for name in weights)
    with_weights(spec(), {name: torch.from_numpy(each) for name, each in state.items()})


def test_what_is_private_changes_no_bit_of_the_vector_that_leaves():
    layout, names = whole_network(), {ROLE_TABLE: spec().window.roles}
    weights = {name: each.clone() for name, each in model().weights().items()}
    before = layout.flatten(weights, categories=names)
    for name in layout.private_names:
        weights[name] += 1e6
    assert (layout.flatten(weights, categories=names) == before).all()
    assert not any(piece.name in layout.private_names for piece in layout.pieces)
    with pytest.raises(ValueError, match="no place in the vector"):
        layout.part(Scope.PRIVATE)


def test_rows_are_aligned_by_the_category_s_name():
    layout = small_layout()
    here, there = ("", "web", "db"), ("", "db")
    state = small_state()
    other = {**state, "table": np.array([[0, 0], [5, 5]], np.float32)}
    one = layout.flatten(state, categories={"table": here})
    two = layout.flatten(other, categories={"table": there}, missing=one)
    back = layout.unflatten(two, categories={"table": here})["table"]
    assert back.tolist() == [[0, 0], [1, 1], [5, 5]]
    assert layout.unflatten(two, categories={"table": there})["table"].tolist() == [[0, 0], [5, 5]]


def test_a_category_the_federation_does_not_know_reads_as_the_unknown_one():
    layout = small_layout()
    flat = layout.flatten(small_state(), categories={"table": ("", "web", "db")})
    back = layout.unflatten(flat, categories={"table": ("", "mail")})
    assert back["table"].tolist() == [[0, 0], [0, 0]]


def test_a_table_without_names_is_refused():
    with pytest.raises(ValueError, match="nothing says which categories"):
        small_layout().flatten(small_state())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"body.a": np.zeros(3, np.float32)}, r"body.a is \(3,\), need \(1,\)"),
        ({"body.b": np.zeros((1, 1), np.float32)}, r"body.b is \(1, 1\), need \(2, 2\)"),
        ({"body.a": np.zeros(1)}, "body.a is float64, need float32"),
        ({"body.a": np.zeros(1, np.int64)}, "body.a is int64, need float32"),
        ({"spare": np.zeros(1, np.float32)}, "1 parameters are missing or spare, first 'spare'"),
    ],
)
def test_what_does_not_fit_is_refused_and_never_broadcast_or_cast(change, match):
    with pytest.raises(ValueError, match=match):
        small_layout().flatten({**small_state(), **change}, categories={"table": ("", "web", "db")})


def test_another_site_s_private_part_does_not_fit():
    layout, names = small_layout(), {"table": ("", "web", "db")}
    flat = layout.flatten(small_state(), categories=names)
    with pytest.raises(ValueError, match=r"head.weight is \(2,\), need \(3,\)"):
        layout.compose(flat, {"head.weight": np.zeros(2, np.float32)}, categories=names)
    with pytest.raises(ValueError, match=r"private: 1 parameters .* 'head.weight'"):
        layout.compose(flat, {}, categories=names)


def test_only_float32_is_merged():
    state = {**small_state(), "body.steps": np.zeros(1, np.int64)}
    with pytest.raises(ValueError, match=r"body\.steps is int64: only float32 is merged"):
        Layout.of(state, rules=RULES, categories={"table": ("", "web", "db")})


@given(
    names=st.lists(st.text("abc.", min_size=1, max_size=4), unique=True, max_size=6),
    private=st.sets(st.integers(0, 5)),
    seed=st.integers(0, 99),
)
def test_flatten_and_compose_are_inverse(names, private, seed):
    random = np.random.default_rng(seed)
    state = {
        name: random.normal(size=tuple(random.integers(0, 4, 2))).astype(np.float32)
        for name in names
    }
    rules = [
        (name, Scope.PRIVATE if place in private else (Scope.GLOBAL, Scope.ROLE)[place % 2])
        for place, name in enumerate(names)
    ]
    layout = Layout.of(state, rules=rules)
    back = layout.compose(layout.flatten(state), layout.private(state))
    assert set(back) == set(state)
    assert all((back[name] == state[name]).all() for name in state)
    assert layout.flatten(state).base is None
