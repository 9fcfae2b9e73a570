import json
import os

import pytest

from mmext.analysis.work_dirs import find_runs


def start(folder, stamp, *epochs, unit='epoch'):
    """The folder of a start with a training line of each of these epochs."""
    log = folder / stamp / 'vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(''.join(json.dumps({'loss': 1.0, unit: epoch, 'step': epoch * 10}) + '\n' for epoch in epochs))
    return folder / stamp


def found(*folders):
    return [(run.name, [one.name for one in run.starts]) for run in find_runs(folders)]


FIRST, SECOND, THIRD = '20260101_000000', '20260102_000000', '20260103_000000'


def test_resumed_starts_are_one_run_and_one_from_the_beginning_another(tmp_path):
    start(tmp_path / 'a', FIRST, 1, 2)
    start(tmp_path / 'a', SECOND, 3, 4)
    start(tmp_path / 'a', THIRD, 1)
    assert found(tmp_path / 'a') == [(f'a@{FIRST}', [FIRST, SECOND]), (f'a@{THIRD}', [THIRD])]


def test_a_training_by_iterations_is_resumed_too(tmp_path):
    start(tmp_path / 'a', FIRST, 1, 2, unit='iter')
    start(tmp_path / 'a', SECOND, 3, unit='iter')
    start(tmp_path / 'a', THIRD, 1, unit='iter')
    assert found(tmp_path / 'a') == [(f'a@{FIRST}', [FIRST, SECOND]), (f'a@{THIRD}', [THIRD])]


def test_a_start_that_logged_no_step_is_no_run_of_its_own(tmp_path):
    start(tmp_path / 'a', FIRST)
    start(tmp_path / 'a', SECOND, 1)
    (tmp_path / 'a' / THIRD).mkdir()
    (run,) = find_runs([tmp_path / 'a'])
    assert (run.name, [one.name for one in run.starts]) == ('a', [SECOND])
    assert [one.name for one in run.idle] == [FIRST, THIRD]
    start(tmp_path / 'b', FIRST)
    assert found(tmp_path / 'b') == [('b', [FIRST])]


def test_parents_starts_and_the_same_twice(tmp_path):
    one = start(tmp_path / 'x/a', FIRST, 1)
    start(tmp_path / 'y/a', FIRST, 1)
    start(tmp_path / 'x/a/validation', SECOND, 1)  # a test of the model within a work_dir is no run
    (tmp_path / 'x/.git').mkdir()
    start(tmp_path / 'x/.git/hidden', FIRST, 1)
    assert found(tmp_path) == [('x/a', [FIRST]), ('y/a', [FIRST])]
    assert found(tmp_path / 'x', tmp_path / 'x/a', tmp_path / 'x' / '..' / 'x') == [('a', [FIRST])]
    assert found(one) == [('a', [FIRST])]


def test_what_holds_no_run_is_an_entry(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('')
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    folders = [tmp_path / name for name in ('empty', 'file', 'loop', 'none')]
    problems = [run.problem for run in find_runs(folders)]
    assert 'no run in it' in problems[0]
    assert 'no run in it' in find_runs([tmp_path])[0].problem
    assert problems[1:] == ['it is a file, no folder', 'there is no such folder', 'there is no such folder']


@pytest.mark.skipif(os.geteuid() == 0, reason='root may open everything')
def test_a_closed_folder_is_an_entry(tmp_path):
    start(tmp_path / 'a', FIRST, 1)
    (tmp_path / 'a').chmod(0)
    try:
        assert 'cannot be opened' in find_runs([tmp_path])[0].problem
    finally:
        (tmp_path / 'a').chmod(0o755)
