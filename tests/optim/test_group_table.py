import pytest
import torch
from torch import nn

from mmext.class_rows import LoadedRows
from mmext.console import plain
from mmext.errors import InputError
from mmext.optim.group_table import fresh_lines, fresh_tensors, group_rows, to_record, to_table


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
        self.backbone[0].requires_grad_(False)
        self.neck = nn.Linear(3, 3).requires_grad_(False)
        self.mask_head = nn.Linear(3, 1)


def optimizer_of(model):
    groups = [
        {'params': list(model.backbone[1].parameters()), 'name': 'backbone', 'lr': 0.1, 'multiplier': 1.0}
        | {'param_names': ['backbone.1.weight', 'backbone.1.bias']},
        {'params': [model.mask_head.weight], 'name': 'mask_head', 'lr': 1.0, 'multiplier': 10.0}
        | {'param_names': ['mask_head.weight']},
        {'params': [model.mask_head.bias], 'name': 'mask_head.bias', 'lr': 2.0, 'multiplier': 20.0}
        | {'param_names': ['mask_head.bias']},
    ]
    return torch.optim.SGD(groups, lr=0.1)


def test_rows_count_what_learns_and_what_is_frozen():
    model = Model()
    rows = group_rows(model, optimizer_of(model))
    assert [(row.name, row.part, row.tensors, row.parameters, row.trainable_tensors, row.trainable) for row in rows] == [
        ('backbone', 'backbone', 4, 21, 2, 12),
        ('mask_head', 'mask_head', 1, 3, 1, 3),
        ('mask_head.bias', 'mask_head', 1, 1, 1, 1),
        ('neck', 'neck', 2, 12, 0, 0),
    ]
    assert [row.lr for row in rows] == [0.1, 1.0, 2.0, None]
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in model.parameters())


def test_fresh_tensors_say_why():
    model = Model()
    state = {f'module.{name}': value for name, value in model.state_dict().items()}
    del state['module.mask_head.bias']
    state['module.mask_head.weight'] = torch.zeros(80, 3)
    fresh = fresh_tensors(model, {'state_dict': state, 'meta': {}})
    assert fresh == {
        'mask_head.weight': 'other shape: (80, 3) in the checkpoint, (1, 3) in the model',
        'mask_head.bias': 'not in the checkpoint',
    }
    rows = group_rows(model, optimizer_of(model), fresh)
    assert [list(row.fresh) for row in rows] == [[], ['mask_head.weight'], ['mask_head.bias'], []]
    record = to_record(rows)
    assert record['schema_version'] == 1
    assert [group['fresh'] for group in record['groups']] == [[], ['mask_head.weight'], ['mask_head.bias'], []]
    text = plain(to_table(rows))
    assert 'mask_head.bias' in text
    assert 'loaded' in text
    assert text.isascii()


def test_a_frozen_tensor_that_is_new_is_called_out():
    model = Model()
    state = model.state_dict()
    del state['neck.weight']
    rows = group_rows(model, optimizer_of(model), fresh_tensors(model, state))
    assert any('neck.weight' in line and 'FROZEN' in line for line in fresh_lines(rows, ['neck.weight']))


def test_a_checkpoint_of_which_nothing_fits_is_an_error():
    with pytest.raises(InputError, match=r"not one of the 8 tensors.*'conv1.weight'.*'backbone.0.weight'"):
        fresh_tensors(Model(), {'conv1.weight': torch.zeros(3)})


def test_nameless_groups_say_what_to_set():
    model = Model()
    with pytest.raises(InputError, match=r'1 of 1 parameter groups have no name.*NamedParamGroupConstructor'):
        group_rows(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_tensors_that_were_loaded_by_class_are_told_apart():
    model = Model()
    state = model.state_dict()
    del state['mask_head.bias']
    part = LoadedRows(2, 4, 'rows', ('fiber', 'background'))
    by_class = {'mask_head.weight': part, 'neck.bias': LoadedRows(3, 3, 'rows', ('a', 'b', 'c'))}
    fresh = fresh_tensors(model, state, by_class)
    assert fresh == {'mask_head.weight': '2 of 4 rows loaded (fiber, background)', 'mask_head.bias': 'not in the checkpoint'}
    rows = group_rows(model, optimizer_of(model), fresh, by_class)
    assert [row.in_part for row in rows] == [0, 1, 0, 0]
    record = to_record(rows)['groups']
    assert record[1]['rows'] == {
        'mask_head.weight': {'loaded': 2, 'total': 4, 'what': 'rows', 'classes': ('fiber', 'background')}
    }
    assert (record[0]['rows'], record[1]['fresh'], record[3]['fresh']) == ({}, ['mask_head.weight'], [])
    last = plain(to_table(rows)).splitlines()[-2]
    assert [cell.strip() for cell in last.strip('|').split('|')][-3:] == ['6', '1', '1']  # loaded, in part, new
    assert fresh_lines(rows, ['mask_head.weight', 'neck.bias']) == [
        'New tensors, which start from their initialisation and not from the checkpoint:',
        '  new  mask_head.bias  (not in the checkpoint)',
        'Loaded by the names of the classes; rows of other classes start from their initialisation:',
        '  mask_head.weight  2 of 4 rows loaded (fiber, background)  FROZEN: it stays as it was initialised',
        '  neck.bias  3 of 3 rows loaded (a, b, c)',
    ]
    assert 'in part' not in plain(to_table(group_rows(model, optimizer_of(model), {})))
