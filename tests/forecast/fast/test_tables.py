from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from forecast.fast.tables import LIMIT, Tables, nodes


def two(values_WK: torch.Tensor, which: list[int]) -> torch.Tensor:
    """[W, 2, K] two curves a variable, steeper for each."""
    height = torch.tensor([1.0 + at for at in which])[:, None]
    return torch.stack([torch.tanh(height * values_WK), height * values_WK], 1)


def read(tables: Tables, values_RV: torch.Tensor) -> torch.Tensor:
    lower, beyond, _ = tables.places[0].find(values_RV)
    return torch.lerp(tables.rows[lower], tables.rows[lower + 1], beyond[..., None])


@given(value=st.floats(-LIMIT, LIMIT, width=32))
def test_a_value_is_read_between_its_neighbours(value):
    tables = Tables.build([(two, 3)], 1e-5)
    values = torch.full((1, 3), value)
    wanted = two(values.T, [0, 1, 2]).permute(2, 0, 1)
    torch.testing.assert_close(read(tables, values), wanted, rtol=1e-5, atol=3e-5)


def test_nodes_are_met_exactly_and_lie_closer_near_0():
    tables = Tables.build([(two, 1)], 1e-3)
    [[bits]] = tables.bits
    places = nodes(bits)
    torch.testing.assert_close(read(tables, places[:, None])[:, 0], two(places[None], [0])[0].T)
    gaps = places[: len(places) // 2].diff()
    assert gaps[0] == 2.0**-bits
    assert gaps[-1] == 16 * gaps[0]
    assert (gaps.diff() >= 0).all()


def test_each_variable_is_as_fine_as_its_own_curves_need():
    tables = Tables.build([(two, 2), (two, 30)], 1e-5)
    first, second = tables.bits
    assert first == second[:2]
    assert second[0] < second[-1]
    assert tables.error <= 1e-5
    assert len(tables.rows) == sum(len(nodes(bits)) for bits in (*first, *second))


def jump(values_WK: torch.Tensor, which: list[int]) -> torch.Tensor:
    """[W, 2, K] the second curve jumps, the others bend."""
    jumps = torch.tensor([at == 1 for at in which])[:, None, None]
    return torch.where(jumps, torch.sign(values_WK - 0.3)[:, None], two(values_WK, which))


def test_a_curve_that_jumps_has_no_table_and_the_others_do():
    tables = Tables.build([(jump, 3), (two, 2)], 1e-3)
    assert tables.steep == ((1,), ())
    assert tables.error <= 1e-3
    values = torch.tensor([[0.5, 0.5, 0.5]])
    wanted = two(values.T, [0, 1, 2]).permute(2, 0, 1)
    wanted[:, 1] = 0.0  # what is computed comes on top
    torch.testing.assert_close(read(tables, values), wanted, rtol=0.0, atol=1e-3)


def test_a_curve_that_is_no_number_has_no_table():
    def broken(values_WK: torch.Tensor, which: list[int]) -> torch.Tensor:
        return torch.full_like(values_WK, torch.nan)[:, None].expand(-1, 2, -1)

    for first, second, steep in ((broken, two, ((0,), ())), (two, broken, ((), (0,)))):
        tables = Tables.build([(first, 1), (second, 1)], 1e-3)
        assert tables.steep == steep
        assert tables.rows.isfinite().all()


def test_the_largest_value_says_whether_all_are_inside():
    [places] = Tables.build([(two, 2)], 1e-2).places
    assert float(places.find(torch.tensor([[-3.0, 2.0]]))[2]) == 3.0
    assert places.find(torch.tensor([[torch.nan, 2.0]]))[2].isnan()
    assert float(places.find(torch.zeros(0, 2))[2]) == 0.0
