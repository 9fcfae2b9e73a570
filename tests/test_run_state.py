import io
import random

import numpy as np
import pytest
import torch

from mmext.run_state import (
    patience_used,
    random_state,
    restore_patience,
    set_random_state,
    validation_is_due,
    why_stopped,
)


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item(), random.gauss(0, 1), np.random.randn()


def test_random_numbers_go_on_after_a_safe_load():
    draw()
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = [draw() for _ in range(3)]
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize(
    'train_cfg',
    [
        {'by_epoch': True, 'max_epochs': 5},
        {'by_epoch': True, 'max_epochs': 5, 'val_interval': 2},
        {'by_epoch': True, 'max_epochs': 5, 'val_begin': 3},
        {'by_epoch': True, 'max_epochs': 6, 'val_interval': 3, 'dynamic_intervals': [(4, 1)]},
        {'by_epoch': False, 'max_iters': 7, 'val_interval': 3},
    ],
)
def test_validation_is_due_when_mmengine_validates(train_tiny, train_cfg):
    from mmengine.hooks import Hook

    validated, expected = [], []

    class Record(Hook):
        priority = 'LOWEST'

        def after_train_epoch(self, runner):
            if train_cfg['by_epoch']:
                runner.train_loop._epoch += 1
                expected.append(validation_is_due(runner.train_loop))
                runner.train_loop._epoch -= 1

        def after_train_iter(self, runner, **kwargs):
            if not train_cfg['by_epoch']:
                runner.train_loop._iter += 1
                expected.append(validation_is_due(runner.train_loop))
                runner.train_loop._iter -= 1

        def after_val(self, runner):
            validated.append(runner.epoch if train_cfg['by_epoch'] else runner.iter)

    train_tiny(train_cfg=train_cfg, validate=True, custom_hooks=[Record()])
    assert [number for number, due in enumerate(expected, 1) if due] == validated
    assert validated


def test_no_validation_is_due_without_a_validation_loop(train_tiny):
    runner, _ = train_tiny()
    assert not validation_is_due(runner.train_loop)


def early(**arguments):
    from mmengine.hooks import EarlyStoppingHook

    return EarlyStoppingHook(**{'monitor': 'size', 'rule': 'less', 'patience': 3, 'min_delta': 0.0, **arguments})


def test_two_early_stoppings_of_one_metric_keep_their_own_counts():
    first, second = early(), early(rule='greater')
    first.wait_count, second.wait_count = 2, 1
    again = [early(rule='greater'), early()]
    assert restore_patience(again, patience_used([first, second]), stopped=False, latest={}) is None
    assert [hook.wait_count for hook in again] == [1, 2]


def test_only_more_patience_lets_a_stopped_run_go_on():
    hook = early()
    hook.wait_count = 3
    saved, latest = patience_used([hook]), {'size': 1.0}
    words = restore_patience([early()], saved, True, latest)
    assert 'did not improve in 3 validations in a row, patience is 3' in words
    assert 'default_hooks.early_stopping.type=mmext.NoHook' in words
    assert restore_patience([early(patience=5)], saved, True, latest) is None
    assert restore_patience([], saved, True, latest) is None


@pytest.mark.parametrize(
    ('arguments', 'value', 'words'),
    [
        ({'stopping_threshold': 0.5}, 0.4, 'size reached 0.4, its threshold is 0.5'),
        ({'stopping_threshold': 0.5}, 0.6, None),
        ({}, float('nan'), 'size is nan'),
        ({'check_finite': False}, float('nan'), None),
        ({}, 0.4, None),
    ],
)
def test_a_stop_is_put_down_to_what_stopped_it(arguments, value, words):
    hook = early(**arguments)
    hook.best_score = 0.4
    assert why_stopped([hook], {'size': value}) == words
    resumed = restore_patience([early(**arguments)], patience_used([hook]), True, {'size': value})
    assert (words in resumed) if words else resumed is None
