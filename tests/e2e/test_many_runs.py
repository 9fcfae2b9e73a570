"""The commands that train many times, as subprocesses, from a folder that is not the checkout."""

import json
import os
import re
import shutil
import subprocess

from conftest import QUICK


def test_kfold_prints_and_writes_the_folds(demo_data, run_command, tmp_path):
    ann_file = demo_data / 'train/annotations.json'
    done = run_command('mmext', 'kfold', ann_file, '--folds', '4', '--out', 'folds', '--group-by', r'000(\d)')
    rows = re.findall(r'^ *fold\d +6 / 2 +6 / 2 +\d+ / \d+ +\d+ / \d+ +\d+ / \d+ *$', done.stdout, re.MULTILINE)
    assert len(rows) == 4, done.stdout
    assert 'Of the instances of a class a fold validates on' in done.stdout
    assert len(list((tmp_path / 'folds').glob('fold*/*.json'))) == 8
    assert json.loads((tmp_path / 'folds/folds.json').read_text())['group_by'] == r'000(\d)'
    wrong = run_command('mmext', 'kfold', ann_file, '--folds', '4', '--out', 'f', '--group-by', 'slide', status=2)
    assert "--group-by: 'slide' finds no group in 8 of 8 file names" in wrong.stdout


KEEP_FIRST = """
import torch
from mmengine.hooks import Hook
from mmext.registry import HOOKS

@HOOKS.register_module()
class KeepFirst(Hook):
    def before_train(self, runner):
        torch.save(runner.model.state_dict(), f'{runner.work_dir}/first.bin')
"""


def test_a_cross_validation_from_slurms_line_to_the_out_of_fold_score(demo_config, run_command, tmp_path, monkeypatch):
    """Two folds, the second after the first: both begin with the same weights, bit for bit, and not with each other's."""
    import torch

    (tmp_path / 'keep_first.py').write_text(KEEP_FIRST)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    config = tmp_path / 'mine.py'
    config.write_text(
        f"_base_ = {str(demo_config)!r}\ncustom_hooks = [dict(type='mmext.KeepFirst')]\n"
        "custom_imports = dict(imports=['mmext.registry', 'keep_first'], allow_failed_imports=False)\n"
    )
    options = ['--folds', '2', '--out', 'cv', '--seed', '3', '--cfg-options', *QUICK]
    script = tmp_path / 'folds.sbatch'
    script.write_text(run_command('mmext', 'cross-validate', config, '--slurm', *options).stdout)
    # the last of its lines is what is to be typed afterwards
    assert script.read_text().rstrip().endswith(f'{QUICK[-1]} --collect')
    environment = {**os.environ, 'SLURM_ARRAY_TASK_ID': '0', 'CUDA_VISIBLE_DEVICES': '-1'}
    done = subprocess.run(['bash', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    early = run_command('mmext', 'cross-validate', config, *options, '--collect', status=1)
    assert 'Not finished, and left out: fold1.' in early.stdout
    files = ['--json', 'cv.json', '--jobs', '1']
    done = run_command('mmext', 'cross-validate', config, *files, *options)
    assert '1 of 2 runs are finished already and are skipped.' in done.stdout
    assert re.search(r'fold1: finished after \d+ (s|min), mask AP 0\.\d+\. 2 of 2\.', done.stdout)
    assert 'all 8 images in one list' in done.stdout
    record = json.loads((tmp_path / 'cv.json').read_text())
    assert record['images'] == 8
    assert {'mask AP', 'box AP', 'mask AP, Fiber', 'mask IoU'} <= set(record['numbers'])
    assert (tmp_path / 'cv/out_of_fold.npz').is_file()
    first, second = (torch.load(tmp_path / f'cv/fold{k}/first.bin') for k in range(2))
    assert first.keys() == second.keys()
    assert 'roi_head.mask_head.conv_logits.weight' in first  # one that no checkpoint has
    assert all(torch.equal(first[name], second[name]) for name in first)
    trained = torch.load(tmp_path / 'cv/fold0/epoch_1.pth', weights_only=False)['state_dict']
    assert not torch.equal(trained['neck.fpn_convs.0.conv.weight'], second['neck.fpn_convs.0.conv.weight'])


def test_a_cross_validation_of_which_no_fold_can_train_says_why(demo_config, run_command, tmp_path):
    options = ['--folds', '2', '--out', 'cv', '--cfg-options', *QUICK, f'load_from={tmp_path}/nowhere.pth']
    done = run_command('mmext', 'cross-validate', demo_config, *options, status=1)
    assert done.stdout.count('nowhere.pth') >= 2
    assert done.stdout.count('Its output: ') == 2


def test_a_sweep_of_finished_runs_is_their_comparison_and_a_dry_run_writes_nothing(
    demo_config, run_folder, run_command, tmp_path
):
    for seed in (0, 1):
        shutil.copytree(run_folder, tmp_path / f'out/seed={seed}', ignore=shutil.ignore_patterns('*.pth'))
    words = ['sweep', demo_config, '--out', 'out', '--seeds', '0,1']
    done = run_command('mmext', *words, '--json', 'runs.json')
    assert '2 of 2 runs are finished already and are skipped.' in done.stdout
    assert [run['run'] for run in json.loads((tmp_path / 'runs.json').read_text())['runs']] == ['seed=0', 'seed=1']
    assert 'mask AP' in done.stdout
    missing = run_command('mmext', *words, '--dry-run', '--set', 'train_cfg.max_epochs=1,2')
    assert missing.stdout.count('--work-dir') == 4
    assert 'max_epochs=2_seed=1' in missing.stdout
    assert not (tmp_path / 'out/configs/max_epochs=2_seed=1.py').exists()
