import pytest

from mmext.analysis.digest import Digest
from mmext.analysis.seeds import mean_and_spread, paired, settings_of


def run(name, lr, seed, state='finished'):
    config = {'optim_wrapper.optimizer.lr': lr} | ({} if seed is None else {'randomness.seed': seed})
    return Digest(path=None, name=name, state=state, config=config)


def found(*runs):
    return [(one.name, one.runs, one.seeds) for one in settings_of(runs)]


def test_runs_that_differ_in_their_seed_only_are_one_setting():
    runs = run('a-seed0', 0.1, 0), run('b-seed0', 0.2, 0), run('a-seed1', 0.1, 1), run('b', 0.3, 0)
    assert found(*runs) == [('a', (0, 2), (0, 1)), ('b-seed0', (1,), (0,)), ('b', (3,), (0,))]


def test_without_several_seeds_there_is_nothing_to_say():
    assert found(run('a', 0.1, 0), run('b', 0.2, 0)) == []
    assert found() == []


def test_the_same_seed_twice_and_runs_that_broke_off_are_no_further_samples():
    runs = run('a@1', 0.1, 0), run('a@2', 0.1, 0), run('a_1', 0.1, 1), run('a_2', 0.1, 2, state='broken off')
    assert found(*runs) == [('a', (1, 2), (0, 1))]


def test_runs_without_a_seed_have_drawn_one_each():
    runs = run('a_x', 0.1, None), run('a_y', 0.1, None)
    assert found(*runs) == [('a', (0, 1), (None, None))]
    (setting,) = settings_of(runs)
    assert paired(setting, setting, [{'m': 1.0}, {'m': 2.0}], 'm') == ([], [])


def test_means():
    assert mean_and_spread([1.0, 3.0, None, float('nan')]) == pytest.approx((2.0, 2**0.5))
    assert mean_and_spread([1.0]) == (1.0, None)
    assert mean_and_spread([None]) is None


def test_pairs_are_of_the_same_seed():
    runs = [run('a0', 0.1, 0), run('a1', 0.1, 1), run('b1', 0.2, 1), run('b0', 0.2, 0), run('b7', 0.2, 7)]
    first, second = settings_of(runs)
    rows = [{'m': value} for value in (0.0, 0.1, 1.1, 1.0, 1.7)]
    assert paired(first, second, rows, 'm') == ([0.0, 0.1], [1.0, 1.1])
    rows[2]['m'] = None
    assert paired(first, second, rows, 'm') == ([0.0], [1.0])
