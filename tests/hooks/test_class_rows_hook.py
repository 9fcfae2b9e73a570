import copy
import json
from pathlib import Path

import pytest
import torch
from conftest import count
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmext
from mmext.data.demo import KINDS, write_part
from mmext.data.own_data import write_config
from mmext.errors import InputError
from mmext.hooks import ClassRowsHook
from mmext.optim.group_report import report
from mmext.registry import HOOKS
from mmext.safe_load import allow_mmengine_checkpoints

RECIPE = 'mask-rcnn_r18_fpn_finetune'
SOURCE = mmext.config_root() / 'demo' / 'mask-rcnn_r18_fpn_source.pth'
# the source model knows Disk, Rod, Star, Crescent
OURS = ('Star', 'Blob', 'rod', 'Disk', 'Crescent')
SHARED = {0: 2, 2: 1, 3: 0, 4: 3, 5: 4}  # with the background
OFF = {'default_hooks.class_rows.type': 'mmext.NoHook'}


class IterationZeroError(Exception):
    """The training has got as far as these tests need it."""


@HOOKS.register_module()
class StopAtZero(Hook):
    """Keeps the weights that a training begins with, and what it validates to, and ends it."""

    priority = 'LOWEST'

    def __init__(self, validate=False):
        self.validate = validate

    def before_train(self, runner):
        runner.weights = copy.deepcopy(runner.model.state_dict())
        ema = [hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook']
        runner.averaged = copy.deepcopy(ema[0].ema_model.module.state_dict()) if ema else None
        if self.validate:
            runner.metrics = runner.val_loop.run()
        raise IterationZeroError


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """A config for made shapes whose classes are in another order than the source model's, one of them new."""
    folder = tmp_path_factory.mktemp('shapes of mine')
    for number, (part, images) in enumerate((('train', 4), ('val', 8))):
        list(write_part(folder / part, images, (0, number), KINDS['shapes']))
        file = folder / part / 'annotations.json'
        document = json.loads(file.read_text())
        names = {one['id']: one['name'].replace('Rod', 'rod') for one in document['categories']}
        document['categories'] = [{'id': place + 1, 'name': name} for place, name in enumerate(OURS)]
        for place, one in enumerate(document['annotations']):
            name = names[one['category_id']]
            one['category_id'] = OURS.index('Blob' if name == 'Crescent' and place % 3 == 0 else name) + 1
        file.write_text(json.dumps(document))
    write_config(
        *((folder / part / 'annotations.json', folder / part) for part in ('train', 'val')), RECIPE, folder / 'my.py'
    )
    return folder / 'my.py'


@pytest.fixture
def start(shapes, tmp_path):
    """A Runner of that config, with changes."""

    def build(options=None, stop=None):
        cfg = Config.fromfile(shapes)
        cfg.work_dir = str(tmp_path / 'run')
        cfg.merge_from_dict({'val_evaluator.classwise': True, 'test_evaluator.classwise': True, **(options or {})})
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or []),
            *([{'type': 'mmext.StopAtZero', **stop}] if stop is not None else []),
        ]
        cfg.experiment_name = cfg.visualizer.name = f'rows{next(count)}'
        return Runner.from_cfg(cfg)

    return build


def at_zero(runner):
    with pytest.raises(IterationZeroError):
        runner.train()
    return runner


def rows_of(state, key='roi_head.bbox_head.fc_cls.weight'):
    return state[key]


def source_state():
    return torch.load(SOURCE, map_location='cpu', weights_only=True)['state_dict']


def test_a_shared_name_is_found_before_the_first_iteration(start):
    runner = at_zero(start(stop={'validate': True}))
    found = {name: runner.metrics[f'coco/segm_{name}_mAP'] for name in OURS}
    assert min(found[name] for name in ('Star', 'rod', 'Disk', 'Crescent')) > 0.2, found
    assert found['Blob'] < 0.05  # it has objects, and its rows are new
    stock = at_zero(start(OFF, stop={'validate': True}))
    assert max(stock.metrics[f'coco/segm_{name}_mAP'] for name in OURS) < 0.05
    theirs = source_state()
    for key in ('fc_cls.weight', 'fc_cls.bias'):
        name = f'roi_head.bbox_head.{key}'
        for place, old in SHARED.items():
            assert torch.equal(runner.weights[name][place], theirs[name][old].float())
        # what is new is what it would be without the hook
        assert torch.equal(runner.weights[name][1], stock.weights[name][1])
        assert not torch.equal(runner.weights[name][0], stock.weights[name][0])


def test_a_test_of_the_checkpoint_goes_by_name_too(start):
    metrics = start({'load_from': str(SOURCE)}).test()
    assert min(metrics[f'coco/segm_{name}_mAP'] for name in ('Star', 'rod', 'Disk', 'Crescent')) > 0.2


def test_the_table_and_the_record_of_the_run_show_rows(start, shapes, capsys):
    runner = at_zero(
        start({'default_hooks.class_rows.map.Blob': 'Disk', 'default_hooks.class_rows.map.Disk': None}, stop={})
    )
    logged = next(Path(runner.log_dir).glob('*.log')).read_text()
    lines = [
        'Classes that keep their rows of the checkpoint: Star, Blob (from Disk), rod (from Rod), Crescent. New: Disk.',
        'roi_head.bbox_head.fc_cls.weight  5 of 6 rows loaded (Star, Blob, rod, Crescent, background)',
        'roi_head.bbox_head.fc_reg.bias  16 of 20 rows loaded (Star, Blob, rod, Crescent)',
        'roi_head.mask_head.conv_logits.weight  4 of 5 rows loaded (Star, Blob, rod, Crescent)',
    ]
    shown = report(
        str(shapes), ['default_hooks.class_rows.map.Blob=Disk', 'default_hooks.class_rows.map.Disk=None'], False, None
    )
    shown.print()
    printed = capsys.readouterr().out
    for line in lines:
        assert line in logged
        assert line in printed
    assert 'in part' in logged
    record = json.loads(Path(runner.log_dir, 'param_groups.json').read_text())
    group = next(group for group in record['groups'] if group['name'] == 'mask_head')
    name = 'roi_head.mask_head.conv_logits.weight'
    assert group['rows'][name] == {'loaded': 4, 'total': 5, 'what': 'rows', 'classes': ['Star', 'Blob', 'rod', 'Crescent']}
    assert name in group['fresh']
    assert [row.rows for row in shown.rows if row.name == 'backbone'] == [{}]


def test_moving_averages_begin_with_the_rows_too(start):
    runner = start({'custom_hooks': [{'type': 'EMAHook'}]}, stop={})
    weights, averaged = at_zero(runner).weights, runner.averaged
    assert all(torch.equal(value, averaged[name]) for name, value in weights.items())
    assert torch.equal(rows_of(averaged)[0], rows_of(source_state())[2].float())


def test_a_resume_changes_nothing(start, tmp_path):
    start({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 9}).train()
    allow_mmengine_checkpoints()
    file = tmp_path / 'run' / 'epoch_1.pth'
    checkpoint = torch.load(file, map_location='cpu', weights_only=True)
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == OURS
    checkpoint['meta']['dataset_meta']['classes'] = OURS[::-1]
    torch.save(checkpoint, file)
    resumed = at_zero(start({'resume': True, 'load_from': str(file)}, stop={}))
    assert torch.equal(rows_of(resumed.weights), rows_of(checkpoint['state_dict']))
    anew = at_zero(start({'load_from': str(file)}, stop={}))
    assert torch.equal(rows_of(anew.weights)[:5], rows_of(checkpoint['state_dict'])[:5].flip(0))


def test_a_wrong_map_stops_the_run_and_the_table_before_anything_is_loaded(start, shapes):
    words = r"map Blob=Disc: 'Disc' is no class of the checkpoint. Did you mean 'Disk'\? It has: Disk, Rod, Star, Crescent"
    with pytest.raises(InputError, match=words):
        start({'default_hooks.class_rows.map.Blob': 'Disc'}).train()
    with pytest.raises(InputError, match=words):
        report(str(shapes), ['default_hooks.class_rows.map.Blob=Disc'], False, None)
    with pytest.raises(InputError, match='it must be a dict'):
        ClassRowsHook(map='Blob=Disk')


def test_a_run_without_heads_or_classes_is_left_alone(train_tiny, tmp_path):
    torch.save({'backbone.weight': torch.ones(4, 2)}, tmp_path / 'weights.pth')
    runner, _ = train_tiny(
        default_hooks={'class_rows': {'type': 'mmext.ClassRowsHook'}}, load_from=str(tmp_path / 'weights.pth'), lr=0.0
    )
    assert torch.equal(runner.model.backbone.weight, torch.ones(4, 2))


def test_the_demo_starts_as_before(demo_config):
    """None of its classes is the source model's: the experiment's protocol needs its last layers new."""
    answer = report(str(demo_config), [], False, None)
    fresh = {name for row in answer.rows for name in row.fresh}
    layers = ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
    assert fresh == {f'roi_head.{layer}.{key}' for layer in layers for key in ('weight', 'bias')}
    assert not any(row.rows for row in answer.rows)
    assert any('No class of the data (Fiber, Fragment, Film)' in line for line in answer.lines)
