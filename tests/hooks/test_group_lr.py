import json
from pathlib import Path

import pytest

from mmext.errors import InputError
from mmext.hooks.group_lr import group_rates

HOOKS = {'group_lr': {'type': 'mmext.GroupLRHook'}}
KEYS = {'backbone': {'lr_mult': 0.1}, 'mask_head': {'lr_mult': 10}}


def test_group_without_a_name_says_what_to_set():
    with pytest.raises(InputError, match=r'1 of 1 parameter groups have no name.*NamedParamGroupConstructor'):
        group_rates([{'lr': 0.005}])


def test_suffixed_group_is_logged_only_where_its_rate_differs():
    groups = [('neck', 1.0), ('neck.norm', 1.0), ('neck.bias', 2.0), ('lost.bias', 3.0)]
    rates = group_rates([{'name': name, 'lr': rate} for name, rate in groups])
    assert rates == {'neck_lr': 1.0, 'neck.bias_lr': 2.0, 'lost_lr': 3.0}


def test_every_logged_line_has_every_rate(train_tiny):
    _, lines = train_tiny(KEYS, HOOKS)
    assert len(lines) == 12
    assert all((line['backbone_lr'], line['mask_head_lr']) == pytest.approx((0.002, 0.2)) for line in lines)


def test_table_goes_to_console_log_and_json(train_tiny, capsys):
    runner, _ = train_tiny(KEYS, HOOKS)
    console = capsys.readouterr().out
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    for text in (console, log):
        assert 'Parameter groups' in text
        assert 'mask_head' in text
        assert 'No checkpoint was loaded' in text
    assert console.count('Parameter groups') == 1
    assert log.count('Parameter groups') == 1
    record = json.loads(Path(runner.log_dir, 'param_groups.json').read_text())
    assert [(group['name'], group['lr'], group['fresh']) for group in record['groups']] == [
        ('backbone', pytest.approx(0.002), None),
        ('mask_head', pytest.approx(0.2), None),
    ]


def test_stock_groups_are_refused_before_the_first_iteration(train_tiny):
    with pytest.raises(InputError, match='have no name'):
        train_tiny(default_hooks=HOOKS, constructor='stock')


def test_loaded_and_new_tensors_are_told_apart(train_tiny, tmp_path, capsys):
    import torch

    state = {'backbone.weight': torch.zeros(4, 2), 'backbone.bias': torch.zeros(4), 'mask_head.weight': torch.zeros(80, 4)}
    torch.save({'state_dict': state}, tmp_path / 'coco.pth')
    runner, _ = train_tiny(KEYS, HOOKS, load_from=str(tmp_path / 'coco.pth'))
    record = json.loads(Path(runner.log_dir, 'param_groups.json').read_text())
    assert [group['fresh'] for group in record['groups']] == [[], ['mask_head.weight', 'mask_head.bias']]
    assert 'mask_head.weight  (other shape: (80, 4) in the checkpoint, (1, 4) in the model)' in capsys.readouterr().out


def test_a_checkpoint_of_which_nothing_fits_stops_the_run(train_tiny, tmp_path):
    import torch

    torch.save({'conv1.weight': torch.zeros(2)}, tmp_path / 'other.pth')
    with pytest.raises(InputError, match='not one of the 4 tensors of the model is in the checkpoint'):
        train_tiny(KEYS, HOOKS, load_from=str(tmp_path / 'other.pth'))
