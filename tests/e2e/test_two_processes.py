"""Training on two processes without a GPU, started as a person starts it; what one process then says of the result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from mmengine.config import Config
from mmengine.runner import Runner

from mmext.analysis.coco_ap import average_precision, match_predictions, numbers, truth_of
from mmext.analysis.predictions import read_predictions
from mmext.data.coco_file import read_coco
from mmext.data.demo import KINDS, write_part
from mmext.data.own_data import write_config

CONFIG = """
_base_ = ['./config.py', __import__('mmext').base('cpu_ddp')]
custom_imports = dict(imports=['mmext.registry', 'two_processes'])
custom_hooks = [dict(type='KeepEachProcess'), dict(type='SpoilSecondProcess', iteration=2)]
default_hooks = dict(loss_guard=dict(policy='skip'))
"""
# one image at a time, so that both ways of validating do the same arithmetic
OPTIONS = [*QUICK, 'val_dataloader.batch_size=1', 'test_dataloader.batch_size=1']


def mim(*arguments):
    program = Path(sys.executable).parent / 'mim'
    environment = os.environ | {'PYTHONPATH': str(Path(__file__).parent), 'OMP_NUM_THREADS': '1'}
    command = [program, *map(str, arguments)]
    folder = arguments[2].parent
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The shipped source model trained on on two processes: 8 images, 5 for validation; console.txt, run/, val.*.json."""
    folder = tmp_path_factory.mktemp('two processes')
    for number, (part, images) in enumerate((('train', 8), ('val', 5))):
        list(write_part(folder / part, images, (0, number), KINDS['shapes']))
    parts = [(folder / part / 'annotations.json', folder / part) for part in ('train', 'val')]
    write_config(*parts, 'mask-rcnn_r18_fpn_finetune_differential-10x', folder / 'config.py')
    (folder / 'several.py').write_text(CONFIG)
    # the predictors of all four shapes are loaded; a low rate keeps what they know
    options = [*OPTIONS, 'train_dataloader.batch_size=2', 'optim_wrapper.optimizer.lr=1e-4']
    options.append('val_evaluator.outfile_prefix=val')
    launcher = ['--launcher', 'pytorch', '--gpus', '2']
    console = mim(
        'train', 'mmdet', folder / 'several.py', *launcher, '--work-dir', folder / 'run', '--cfg-options', *options
    )
    (folder / 'console.txt').write_text(console)
    return folder


def test_two_processes_share_groups_log_and_weights(folder):
    first, second = (torch.load(folder / f'run/rank{rank}.pth') for rank in (0, 1))
    assert first['names'] == second['names'] == ['backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head']
    # running statistics of batch norm are each process's own, as in stock
    parameters = [name for name in first['weights'] if 'running' not in name and 'num_batches' not in name]
    assert all(torch.equal(first['weights'][name], second['weights'][name]) for name in parameters)
    saved = torch.load(folder / 'run/epoch_1.pth', weights_only=False)['state_dict']
    assert all(torch.equal(first['weights'][name], saved[name]) for name in parameters)

    console = (folder / 'console.txt').read_text()
    (log,) = folder.glob('run/*/*.log')
    for text in (console, log.read_text()):
        assert text.count('Parameter groups') == 1
        assert text.count('The losses and shares in the log are those of the first of 2 processes') == 1
        assert text.count('Epoch(train) [1][2/2]') == 1  # 8 images, two processes of two
    assert len(list(folder.glob('run/*/param_groups.json'))) == 1


def test_both_drop_a_step_that_is_bad_on_one(folder):
    """The second process has a NaN in iteration 2; equal weights afterwards are the test before this one."""
    (log,) = folder.glob('run/*/*.log')
    words = 'Loss guard, iteration 2: loss_mask is nan. The step is dropped.'
    assert log.read_text().count(words) == 1
    record = json.loads((folder / 'run' / 'loss_guard' / 'iter_2.json').read_text())
    assert len({image['path'] for image in record['images']}) == 4  # two images on each of two processes
    weights = torch.load(folder / 'run/rank1.pth')['weights']
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_two_processes_validate_as_one_does(folder):
    (scalars,) = folder.glob('run/*/vis_data/scalars.json')
    two = json.loads(scalars.read_text().splitlines()[-1])
    checkpoint = folder / 'run/epoch_1.pth'
    work_dir = folder / 'one'
    mim(
        *('test', 'mmdet', folder / 'config.py', '--checkpoint', checkpoint, '--work-dir', work_dir),
        *('--cfg-options', *OPTIONS, 'test_evaluator.outfile_prefix=test'),
    )
    one = json.loads(next(work_dir.glob('*/*.json')).read_text())
    metrics = [name for name in one if name.startswith('coco/')]
    assert {name: two[name] for name in metrics} == pytest.approx({name: one[name] for name in metrics}, abs=1e-6)
    assert one['coco/bbox_mAP'] > 0.2
    assert one['coco/segm_mAP'] > 0.2

    cfg = Config.fromfile(folder / 'config.py')
    cfg.merge_from_dict({'load_from': str(checkpoint), 'work_dir': str(work_dir), 'val_dataloader.batch_size': 1})
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    losses = Runner.from_cfg(cfg).val()
    names = [name for name in losses if name.startswith(('val_loss', 'mask/'))]
    assert len(names) == 6 + 8 + 4 * 6 + 3 * 2
    assert {name: two[name] for name in names} == pytest.approx({name: losses[name] for name in names}, rel=1e-5)

    # five images over two processes: the sixth, which fills the second one's share, is not scored
    found = [json.loads((folder / f'{run}.segm.json').read_text()) for run in ('val', 'test')]
    assert [d['image_id'] for d in found[0]] == [d['image_id'] for d in found[1]]
    assert {d['image_id'] for d in found[0]} == {1, 2, 3, 4, 5}
    scores = [[d['score'] for d in detections] for detections in found]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_predictions_of_both_processes_are_kept_once(folder):
    (path,) = folder.glob('run/*/predictions_last.npz')
    found = read_predictions(path)
    assert found.about['image_ids'] == [1, 2, 3, 4, 5]
    truth = truth_of(read_coco(found.about['ann_file']), found.about['image_ids'], found.about['classes'])
    (scalars,) = folder.glob('run/*/vis_data/scalars.json')
    logged = json.loads(scalars.read_text().splitlines()[-1])
    for kind in ('bbox', 'segm'):
        ours = numbers(average_precision(match_predictions(truth, found, kind)))['AP'][0]
        assert ours == pytest.approx(logged[f'coco/{kind}_mAP'], abs=1e-9)


@pytest.mark.parametrize('wrapper', [{}, {'type': 'ScaledOnCpu'}, {'accumulative_counts': 2}])
def test_both_stop_at_the_same_step_when_one_is_bad_for_long(run_command, tmp_path, wrapper):
    script = Path(__file__).with_name('guard_processes.py')
    run_command('torchrun', '--nproc_per_node=2', '--master_port=29714', script, wrapper, tmp_path / 'run')
    first, second = ((tmp_path / 'run' / f'rank{rank}.txt').read_text() for rank in (0, 1))
    assert first == second
    iteration = 8 if 'accumulative_counts' in wrapper else 5
    assert first.startswith(
        f'Training stopped at iteration {iteration} (epoch 1), before the step changed any weight: loss_mask'
    )
    assert '(3 faults in a row)' in first


def test_both_are_equal_after_every_stage(demo_config, tmp_path):
    config = tmp_path / 'staged.py'
    config.write_text(f"""
_base_ = [{str(demo_config)!r}, __import__('mmext').base('cpu_ddp')]
custom_imports = dict(imports=['mmext.registry', 'two_processes'])
custom_hooks = [dict(type='KeepEachProcess')]
model = dict(backbone=dict(frozen_stages=-1))
model_wrapper_cfg = dict(find_unused_parameters=True)
default_hooks = dict(staged_training=dict(type='mmext.StagedTrainingHook', stages=[
    dict(epochs=1, train='heads'), dict(epochs=1, train='4+'), dict(train='all', lr_mult=0.1)]))
""")
    options = [*OPTIONS, 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=3', 'train_cfg.val_interval=3']
    launcher = ['--launcher', 'pytorch', '--gpus', '2']
    mim('train', 'mmdet', config, *launcher, '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    before = torch.load(tmp_path / 'run/rank0_epoch1.pth')
    moved = []
    for epoch in (1, 2, 3):
        first, second = (torch.load(tmp_path / f'run/rank{rank}_epoch{epoch}.pth') for rank in (0, 1))
        names = [name for name in first if 'running' not in name and 'num_batches' not in name]
        assert all(torch.equal(first[name], second[name]) for name in names)
        moved.append({name for name in names if not torch.equal(first[name], before[name])})
        before = first
    assert not any(name.startswith(('backbone.conv1', 'backbone.layer1', 'backbone.layer2')) for name in moved[1])
    assert any(name.startswith('backbone.layer3') for name in moved[1])
    assert any(name.startswith('backbone.conv1') for name in moved[2])
