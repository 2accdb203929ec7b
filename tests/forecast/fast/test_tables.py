from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from forecast.fast.tables import LIMIT, Tables, nodes


def two(values_VK: torch.Tensor) -> torch.Tensor:
    """[V, 2, K] two curves a variable, another height for each."""
    height = torch.arange(1.0, len(values_VK) + 1)[:, None]
    return torch.stack([height * torch.tanh(values_VK), height * values_VK], 1)


def read(tables: Tables, values_RV: torch.Tensor) -> torch.Tensor:
    cell, beyond, _ = tables.cells(values_RV)
    lower = cell + tables.starts[0]
    return torch.lerp(tables.rows[lower], tables.rows[lower + 1], beyond[..., None])


@given(value=st.floats(-LIMIT, LIMIT, width=32))
def test_a_value_is_read_between_its_neighbours(value):
    tables = Tables.build([(two, 3)], 1e-3)
    values = torch.full((1, 3), value)
    wanted = two(values.T).permute(2, 0, 1)
    torch.testing.assert_close(read(tables, values), wanted, rtol=1e-5, atol=3e-3)


def test_nodes_are_met_exactly_and_lie_closer_near_0():
    tables = Tables.build([(two, 1)], 1e-3)
    places = nodes(tables.bits)
    torch.testing.assert_close(read(tables, places[:, None])[:, 0], two(places[None])[0].T)
    gaps = places[: len(places) // 2].diff()
    assert gaps[0] == 2.0**-tables.bits
    assert gaps[-1] == 16 * gaps[0]
    assert (gaps.diff() >= 0).all()


def test_the_largest_value_says_whether_all_are_inside():
    tables = Tables.build([(two, 2)], 1e-2)
    assert float(tables.cells(torch.tensor([[-3.0, 2.0]]))[2]) == 3.0
    assert tables.cells(torch.tensor([[torch.nan, 2.0]]))[2].isnan()
    assert float(tables.cells(torch.zeros(0, 2))[2]) == 0.0
