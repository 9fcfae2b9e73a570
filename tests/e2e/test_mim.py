"""The commands that a person types, as subprocesses, from a folder that is not the checkout."""

import json
import re

import cv2
import pytest
from conftest import QUICK
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')
KEY = 'optim_wrapper.paramwise_cfg.custom_keys'


def test_a_short_key_raises_both_heads_and_a_longer_one_refines_it(run_folder):
    record = json.loads(next(run_folder.glob('*/param_groups.json')).read_text())
    multipliers = {group['name']: group['multiplier'] for group in record['groups']}
    assert multipliers == pytest.approx(dict(zip(PARTS, (1, 1, 2, 15, 3), strict=True)))
    console = (run_folder / 'console.txt').read_text()
    assert 'Parameter groups' in console
    assert re.search(r'backbone_lr: \d\.\d+e-\d+ .*mask_head_lr: \d\.\d+e-\d+', console)
    assert 'paramwise_options' not in console


def test_five_rates_are_in_tensorboard_and_in_the_json_log(run_folder):
    events = EventAccumulator(str(next(run_folder.glob('*/vis_data/events*')).parent))
    events.Reload()
    lines = [json.loads(line) for line in next(run_folder.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    training = [line for line in lines if 'loss_mask' in line]
    assert len(training) == 2
    for part in PARTS:
        written = [event.value for event in events.Scalars(f'{part}_lr')]
        assert written == pytest.approx([line[f'{part}_lr'] for line in training])
    assert all(line['mask_head_lr'] == pytest.approx(3 * line['backbone_lr']) for line in training)


def test_mmdets_analyze_logs_plots_our_json(run_folder, run_command, tmp_path):
    log = next(run_folder.glob('*/vis_data/scalars.json'))
    picture = tmp_path / 'curves.png'
    keys = ['--keys', 'loss_mask', 'segm_mAP', 'mask_head_lr']
    run_command('mim', 'run', 'mmdet', 'analyze_logs', 'plot_curve', log, *keys, '--out', picture)
    assert cv2.imread(str(picture)).std() > 1


def test_mim_test_and_scripts_without_hooks_read_our_checkpoint(run_folder, demo_config, demo_data, run_command, tmp_path):
    checkpoint = run_folder / 'epoch_1.pth'
    done = run_command('mim', 'test', 'mmdet', demo_config, '--checkpoint', checkpoint, '--work-dir', tmp_path / 'test')
    assert 'coco/segm_mAP' in done.stdout
    code = 'from mmdet.apis import init_detector; import sys; print(type(init_detector(*sys.argv[1:], device="cpu")))'
    done = run_command('python', '-c', code, demo_config, checkpoint)
    assert 'MaskRCNN' in done.stdout


def test_resuming_goes_on_after_the_last_epoch(run_folder, demo_config, run_command, tmp_path):
    import shutil

    work_dir = tmp_path / 'copy'
    shutil.copytree(run_folder, work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    options = [f'{KEY}.roi_head.lr_mult=15', f'{KEY}.mask_head.lr_mult=3', *QUICK, 'train_cfg.max_epochs=2']
    done = run_command('mim', 'train', 'mmdet', demo_config, '--work-dir', work_dir, '--resume', '--cfg-options', *options)
    assert 'resumed epoch: 1' in done.stdout
    assert (work_dir / 'epoch_2.pth').is_file()


def test_a_misspelt_part_stops_with_the_right_name(demo_config, run_command, tmp_path):
    option = f'{KEY}.mask_haed.lr_mult=15'
    done = run_command('mim', 'train', 'mmdet', demo_config, '--work-dir', tmp_path / 'w', '--cfg-options', option, status=1)
    assert (
        "custom_keys: 'mask_haed' matches no parameter. The model has: backbone, neck, rpn_head, bbox_head, mask_head. "
        "Did you mean 'mask_head'?"
    ) in done.stdout


def test_the_hook_reads_checkpoints_where_the_config_was_read_before_torch(run_folder, demo_config, run_command, tmp_path):
    code = (
        'import sys, warnings; warnings.simplefilter("ignore")\n'
        'from mmengine.config import Config\n'
        'cfg = Config.fromfile(sys.argv[1])\n'
        'assert "torch" not in sys.modules\n'
        'from mmengine.runner import Runner\n'
        'cfg.load_from, cfg.work_dir = sys.argv[2:]\n'
        'Runner.from_cfg(cfg).test()\n'
    )
    run_command('python', '-c', code, demo_config, run_folder / 'epoch_1.pth', tmp_path / 'test')
