from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train.grid import Grid


def grid_of(*, ring=4, metrics=2, rows=2):
    grid = Grid(ring=ring, metrics=metrics)
    grid.ensure_rows(rows, most=8)
    return grid


def write(grid, *cells, only_gaps=False):
    """Write (row, slot, column, value) cells."""
    rows, slots, columns, values = (np.array(each) for each in zip(*cells, strict=True))
    return grid.write(rows, slots, columns, values.astype(np.float32), only_gaps=only_gaps)


def read(grid, row, slots):
    return grid.gather(np.array([row]), np.array(slots))[0].tolist()


def same(got, want):
    np.testing.assert_array_equal(np.array(got), np.array(want))


NAN = float("nan")


def test_what_was_written_is_read_and_the_rest_is_gaps():
    grid = grid_of()
    write(grid, (0, 10, 0, 1.0), (0, 11, 1, 2.0))
    same(read(grid, 0, [9, 10, 11]), [[NAN, NAN], [1.0, NAN], [NAN, 2.0]])
    same(read(grid, 1, [10]), [[NAN, NAN]])


def test_another_turn_of_the_ring_is_a_gap():
    grid = grid_of()
    write(grid, (0, 10, 0, 1.0), (0, 10, 1, 1.5))
    same(read(grid, 0, [6, 14]), [[NAN, NAN]] * 2)
    write(grid, (0, 14, 1, 2.0))
    same(read(grid, 0, [10, 14]), [[NAN, NAN], [NAN, 2.0]])


def test_of_two_slots_in_one_cell_the_later_one_holds_whatever_the_order():
    for cells in ([(0, 10, 0, 1.0), (0, 14, 0, 2.0)], [(0, 14, 0, 2.0), (0, 10, 0, 1.0)]):
        together, apart = grid_of(), grid_of()
        write(together, *cells)
        taken = [write(apart, cell).tolist() for cell in cells]
        same(together.values, apart.values)
        same(read(apart, 0, [10, 14]), [[NAN, NAN], [2.0, NAN]])
        assert taken[cells.index((0, 14, 0, 2.0))] == [True]


def test_only_gaps_leaves_what_is_there():
    grid = grid_of()
    write(grid, (0, 10, 0, 1.0))
    taken = write(grid, (0, 10, 0, 7.0), (0, 10, 1, 8.0), only_gaps=True)
    assert taken.tolist() == [False, True]
    same(read(grid, 0, [10]), [[1.0, 8.0]])


def test_growing_keeps_what_is_there_and_adds_an_eighth_up_to_the_limit():
    grid = grid_of(rows=1)
    write(grid, (0, 10, 0, 1.0))
    capacities = []
    for rows in (1, 2, 80, 81, 91, 102):
        grid.ensure_rows(rows, most=100)
        capacities.append(grid.capacity)
    assert capacities == [1, 2, 80, 90, 100, 102]
    same(read(grid, 0, [10]), [[1.0, NAN]])
    same(read(grid, 101, [10]), [[NAN, NAN]])


def test_a_turn_beyond_two_bytes_is_kept_like_any_other():
    grid = grid_of()
    write(grid, (0, 10, 0, 1.0), (1, 5, 0, 3.0))
    far = 4 * 40_000 + 2
    write(grid, (0, far, 0, 2.0))
    same(read(grid, 0, [10, far]), [[NAN, NAN], [2.0, NAN]])
    same(read(grid, 1, [5]), [[3.0, NAN]])
    assert grid.slots[0].tolist() == [-1, -1, far, -1]


def test_what_is_empty_holds_no_slot_before_1970():
    grid = grid_of()
    assert not grid.holds(np.array([0]), np.arange(-9, 0)).any()
    same(read(grid, 0, [-1, -4]), [[NAN, NAN]] * 2)


def test_a_wiped_row_is_all_gaps_and_counts_no_cells():
    grid = grid_of()
    write(grid, (0, 10, 0, 1.0), (1, 10, 0, 2.0), (1, 11, 0, 2.0), (1, 11, 1, 2.0))
    assert grid.cells == 3
    grid.wipe(1)
    same(read(grid, 1, [10, 11]), [[NAN, NAN]] * 2)
    assert grid.cells == 1


def test_slots_in_which_somebody_was_heard_are_counted_once():
    grid = grid_of(ring=8)
    write(grid, (0, 10, 0, 1.0), (1, 10, 0, 1.0), (1, 12, 0, 1.0), (0, 15, 0, 1.0))
    assert grid.heard_after(np.array([9, 10, 12, 15, 2]), 15).tolist() == [3, 2, 1, 0, 3]
    assert grid.heard_after(np.array([9]), 14).tolist() == [2]


def test_rows_are_counted_where_at_least_one_metric_has_a_value():
    grid = grid_of(ring=8)
    write(grid, (0, 10, 0, 1.0), (0, 10, 1, 1.0), (1, 11, 1, 1.0), (1, 12, 1, NAN))
    assert grid.rows_between(9, 12) == 2
    assert grid.rows_between(10, 12) == 1
    assert grid.rows_between(-100, 10) == 1


CELLS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 12), st.integers(0, 1), st.floats(0, 1, width=32)),
    min_size=1,
    max_size=12,
    unique_by=lambda cell: cell[:3],
)


@given(CELLS, st.randoms(use_true_random=False))
def test_writing_in_any_order_gives_the_same_grid(cells, random):
    one, other = grid_of(), grid_of()
    write(one, *cells)
    shuffled = random.sample(cells, len(cells))
    for cell in shuffled:
        write(other, cell)
    assert one.values.tobytes() == other.values.tobytes()
    assert one.slots.tobytes() == other.slots.tobytes()
    assert one.heard.tobytes() == other.heard.tobytes()
    assert one.cells == other.cells
