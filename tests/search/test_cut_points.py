"""Where values are kept, and how many."""

import itertools

import numpy as np
import pytest

from lpcaffe.engines import NumpyEngine, bind_parameters, check_executable, run_layers
from lpcaffe.search.cut_points import choose_cuts, costs, last_uses, state_sizes
from lpcaffe.search.states import States, before


def recomputed(points, cost, chosen):
    """What trials at each cut point compute from the last kept state on."""
    return sum(cost[point] - max([0.0, *(cost[cut] for cut in chosen if cut <= point)]) for point in points)


def test_with_memory_for_all_every_cut_point_is_kept():
    points, cost, sizes = [2, 5, 6, 9], [float(i) for i in range(12)], [3] * 12
    assert choose_cuts(points, cost, sizes, 12) == (2, 5, 6, 9)
    assert choose_cuts(points, cost, sizes, 2) == ()
    assert choose_cuts([], cost, sizes, 12) == ()
    assert choose_cuts([0], cost, sizes, 12) == ()  # nothing is computed before the start


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_fits_and_saves_nearly_what_can_be_saved(seed):
    rng = np.random.default_rng(seed)
    cost = [0.0, *np.cumsum(rng.integers(0, 9, 17)).astype(float)]
    sizes = [int(size) for size in rng.integers(1, 20, 18)]
    points = sorted(int(point) for point in rng.choice(18, 7, replace=False))
    memory = int(rng.integers(1, 60))
    chosen = choose_cuts(points, cost, sizes, memory)
    assert set(chosen) <= set(points)
    assert sum(sizes[point] for point in chosen) <= memory
    every = [cuts for n in range(8) for cuts in itertools.combinations(points, n)]
    best = min(recomputed(points, cost, cuts) for cuts in every if sum(sizes[cut] for cut in cuts) <= memory)
    nothing = recomputed(points, cost, ())
    assert nothing - recomputed(points, cost, chosen) >= 0.5 * (nothing - best)


def test_sizes_are_those_of_the_values_that_are_live(branches):
    shapes = check_executable(branches)
    wanted = {"prob@prob"}
    release, found = last_uses(branches, wanted), state_sizes(branches, shapes, 2, wanted)
    values = {"data@in": np.ones((2, 3, 9, 8), np.float32), "extra@in": np.ones((2, 6), np.float32)}
    fed = set(values)
    parameters, ops = bind_parameters(branches, shapes), NumpyEngine()
    for layer in branches.layers:
        live = sum(x.nbytes for tensor, x in values.items() if tensor not in fed)
        assert found[2 * layer.index] == live
        run_layers(ops, [layer], values, parameters, release=release)
        assert found[2 * layer.index + 1] == sum(x.nbytes for tensor, x in values.items() if tensor not in fed)
    assert list(values) == ["prob@prob"]
    # Twice the images of the file, twice the bytes.
    assert state_sizes(branches, shapes, 4, wanted) == [2 * size for size in found]


def test_costs_rise_with_multiply_accumulates(branches):
    shapes = check_executable(branches)
    found = costs(branches, shapes)
    assert len(found) == 2 * len(branches.layers) + 1
    assert found[:3] == [0, 0, 0]  # Input
    c1 = branches.by_name["c1"].index
    assert found[2 * c1 + 1] - found[2 * c1] == 2 * 5 * 7 * 6 * (3 * 3 * 3 + 16)
    assert found[2 * c1 + 2] == found[2 * c1 + 1]
    assert sorted(found) == found


def test_a_state_is_found_again_by_the_formats_before_its_cut_point():
    states = States([{"x": 0}], [1] * 9, 3)
    one, other = ((2, "a"), (4, "b")), ((2, "a"), (4, "c"))
    assert states.deepest(one, 8) == (0, [{"x": 0}])
    states.hold(4, one, [{"x": 4}])
    states.hold(5, one, [{"x": 5}])
    assert states.deepest(one, 8) == (5, [{"x": 5}])
    assert states.deepest(other, 8) == (4, [{"x": 4}])
    assert states.deepest(one, 4) == (4, [{"x": 4}])
    assert states.deepest(((2, "z"), (4, "b")), 8) == (0, [{"x": 0}])
    assert before(one, 4) == ((2, "a"),)
    assert before(one, 5) == one


def test_what_was_used_longest_ago_makes_room():
    states = States([], [0, 2, 2, 2, 2], 6)
    for point in (1, 2, 3):
        states.make_room([point])
        states.hold(point, (), [{"x": point}])
    for point in (3, 2, 1):
        assert states.deepest((), point)[0] == point
    states.hold(1, ((0, "a"),), [])
    states.drop(1, ((0, "a"),))
    states.make_room([4])
    assert [states.deepest((), point)[0] for point in (1, 2, 3)] == [1, 2, 2]


def test_what_no_trial_could_use_makes_room_first():
    states = States([], [0, 2, 2, 2, 2], 6)
    base, tried = ((0, "a"),), ((0, "b"),)
    states.hold(1, base, [])
    states.hold(2, base, [])
    assert states.deepest(base, 4)[0] == 2
    states.hold(2, tried, [])
    states.make_room([3])
    assert states.deepest(base, 4)[0] == 2
    assert states.deepest(tried, 4)[0] == 0
