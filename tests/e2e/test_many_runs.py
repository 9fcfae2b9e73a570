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


def test_a_cross_validation_from_slurms_line_to_the_out_of_fold_score(demo_config, run_command, tmp_path):
    """Two folds at a rate of 0, so that what they end with is what they began with: the same weights, bit for bit."""
    import torch

    options = ['--folds', '2', '--out', 'cv', '--seed', '3', '--cfg-options', *QUICK, 'optim_wrapper.optimizer.lr=0.0']
    script = tmp_path / 'folds.sbatch'
    script.write_text(run_command('mmext', 'cross-validate', demo_config, '--slurm', *options).stdout)
    # the last of its lines is what is to be typed afterwards
    assert script.read_text().rstrip().endswith('optim_wrapper.optimizer.lr=0.0 --collect')
    environment = {**os.environ, 'SLURM_ARRAY_TASK_ID': '0', 'CUDA_VISIBLE_DEVICES': '-1'}
    done = subprocess.run(['bash', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    early = run_command('mmext', 'cross-validate', demo_config, *options, '--collect', status=1)
    assert 'Not finished, and left out: fold1.' in early.stdout
    files = ['--json', 'cv.json', '--jobs', '1']
    done = run_command('mmext', 'cross-validate', demo_config, *files, *options)
    assert '1 of 2 runs are finished already and are skipped.' in done.stdout
    assert re.search(r'fold1: finished after \d+ (s|min), mask AP 0\.\d+\. 2 of 2\.', done.stdout)
    assert 'all 8 images in one list' in done.stdout
    record = json.loads((tmp_path / 'cv.json').read_text())
    assert record['images'] == 8
    assert {'mask AP', 'box AP', 'mask AP, Fiber', 'mask IoU'} <= set(record['numbers'])
    assert (tmp_path / 'cv/out_of_fold.npz').is_file()
    first, second = (torch.load(tmp_path / f'cv/fold{k}/epoch_1.pth', weights_only=False)['state_dict'] for k in range(2))
    assert first.keys() == second.keys()
    assert 'roi_head.mask_head.conv_logits.weight' in first  # one that no checkpoint has
    assert all(torch.equal(first[name], second[name]) for name in first)


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
