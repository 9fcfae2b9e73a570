import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmext.cli import spread_cfg_options

RECIPE = 'mask-rcnn_r18_fpn_finetune'
WHOLE_INIT = ['--recipe', RECIPE, '--out', 'a.py', '--train', 'n.json', 'n', '--split', '0.2']


def test_cfg_options_take_several_values():
    given = ['groups', 'c.py', '--cfg-options', 'a=1', 'b=2', '--schedule', 'x=3']
    spread = ['groups', 'c.py', '--cfg-options', 'a=1', '--cfg-options', 'b=2', '--schedule', 'x=3']
    assert spread_cfg_options(given) == spread
    assert spread_cfg_options(spread) == spread


def test_groups_prints_the_table_and_writes_json(run_command, tmp_path):
    key = 'optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult=15'
    done = run_command('mmext', 'groups', RECIPE, '--cfg-options', key, 'load_from=None', '--json', tmp_path / 'g.json')
    assert 'mask_head' in done.stdout
    groups = json.loads((tmp_path / 'g.json').read_text())['groups']
    assert {group['name']: group['multiplier'] for group in groups} == pytest.approx(
        {'backbone': 1, 'neck': 1, 'rpn_head': 2, 'bbox_head': 15, 'mask_head': 15}
    )
    assert all(group['fresh'] is None for group in groups)


def test_a_checkpoint_that_cannot_be_read_is_one_line_and_no_failure(run_command, tmp_path):
    done = run_command(
        'mmext', 'groups', RECIPE, '--cfg-options', 'load_from=no/such/file.pth', '--json', tmp_path / 'g.json'
    )
    assert done.stdout.count('load_from cannot be read') == 1
    assert json.loads((tmp_path / 'g.json').read_text())['groups'][0]['fresh'] is None


def test_schedule_flags_a_lost_ratio_with_exit_code_1(run_command):
    flags = ['groups', RECIPE, '--schedule', '--epoch-length', '20', '--cfg-options', 'train_cfg.max_epochs=5']
    fine = run_command('mmext', *flags)
    assert 'after warm-up' in fine.stdout
    lost = run_command('mmext', *flags, 'param_scheduler.1.eta_min_ratio=None', 'param_scheduler.1.eta_min=5e-5', status=1)
    assert 'mask_head : backbone is planned as 10' in lost.stdout


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['groups', 'no.py'], 'no.py: there is no such config file'),
        (
            ['groups', RECIPE, '--cfg-options', 'optim_wrapper.paramwise_cfg.custom_keys.mask_haed.lr_mult=15'],
            'Did you mean',
        ),
        (['groups', RECIPE, '--cfg-options', 'oops'], "'oops' is not KEY=VALUE"),
        (['groups', RECIPE, '--schedule', '--cfg-options', 'train_dataloader.dataset.ann_file=no.json'], '--epoch-length N'),
        (['init', '--recipe', RECIPE], 'Missing option'),
        (
            ['init', '--recipe', RECIPE, '--out', 'a.py', '--train', 'n.json', 'n', '--val', 'm.json', 'm'],
            'm.json: there is no',
        ),
        (
            ['init', '--recipe', RECIPE, '--train', 'labelme', '--split', '0.2', '--out', 'a.py'],
            '--train takes two: ANN IMAGES. After labelme the image folder is missing',
        ),
        (['init', *WHOLE_INIT, '--map', 'Auto'], "'Auto' is not NEW=OLD"),
        (['init', *WHOLE_INIT, '--map', 'Auto=car', '--map', 'Auto=bus'], "'Auto' is given twice"),
        (['demo-data', 'x', '--images', '0'], '0 is not in the range'),
        (['compare', 'nowhere'], 'nowhere: there is no such folder'),
        (['compare', '.', '--metric', 'mask_app'], "metric: no run has 'mask_app'"),
        (['compare', '.', '--at', 'first'], "'first' is not one of 'best', 'last'"),
        (['groups', RECIPE, '--cfg-options', 'model.backbone.depth=51'], 'the model cannot be built'),
        (['groups', RECIPE, '--json', 'no/such/folder/x.json'], 'No such file or directory'),
        (['nonsense'], "No such command 'nonsense'"),
    ],
)
def test_bad_input_has_exit_code_2_and_no_traceback(run_command, arguments, words):
    done = run_command('mmext', *arguments, status=2)
    assert words in done.stdout
    assert 'Traceback' not in done.stdout


def test_a_crash_of_ours_is_70(run_command, tmp_path):
    broken = 'import mmext, sys; mmext.recipes = lambda: 1 / 0; sys.argv[1:] = ["init", "--recipe", "list"]'
    code = f'{broken}; from mmext.cli import main; main()'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 70
    assert 'ZeroDivisionError' in done.stderr


def test_recipe_list_and_no_overwriting(run_command, demo_data, tmp_path):
    names = run_command('mmext', 'init', '--recipe', 'list').stdout
    assert all(line.count('\t') == 1 for line in names.splitlines())
    assert RECIPE in names
    parts = ['--train', demo_data / 'train/annotations.json', demo_data / 'train']
    parts += ['--val', demo_data / 'val/annotations.json', demo_data / 'val']
    arguments = ['init', *parts, '--recipe', RECIPE, '--out', tmp_path / 'my.py']
    run_command('mmext', *arguments)
    assert 'is there already' in run_command('mmext', *arguments, status=2).stdout
    run_command('mmext', *arguments, '--force')


def test_demo_data_says_what_it_wrote(run_command, tmp_path):
    done = run_command('mmext', 'demo-data', 'made', '--images', '3', '--val-images', '2')
    assert 'made/train/annotations.json' in done.stdout
    assert len(list((tmp_path / 'made/val').glob('*.png'))) == 2


def test_answers_can_be_piped(tmp_path):
    # the reader closes the pipe before the first line is written
    command = f'set -o pipefail; (sleep 1; "{sys.executable}" -m mmext.cli init --recipe list) | true'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, '')


def test_a_terminal_without_utf8_is_no_crash(run_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'mmext.cli', 'compare', run_folder, run_folder],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0'},
    )
    assert done.returncode == 0
    assert b'finished' in done.stdout
    assert b'AP50' in done.stdout


def test_help_shows_examples(run_command):
    assert 'mmext init --train' in run_command('mmext', '--help').stdout
    for command in ('demo-data', 'init', 'groups', 'compare', 'predict', 'kfold', 'cross-validate', 'sweep'):
        assert 'Example' in run_command('mmext', command, '--help').stdout


@pytest.mark.parametrize(('mask_ap', 'status', 'words'), [(0.55, 0, 'not enough evidence'), (0.2, 1, 'box-mask-gap')])
def test_diagnose_says_by_its_exit_code_whether_something_was_found(run_command, tmp_path, mask_ap, status, words):
    log = tmp_path / 'run/20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    lines = [{'loss': 1.0, 'loss_mask': 0.3, 'epoch': 2, 'step': i} for i in range(1, 6)]
    lines.append({'coco/bbox_mAP': 0.6, 'coco/segm_mAP': mask_ap, 'step': 5})
    log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (log.parent / 'config.py').write_text('train_cfg = dict(max_epochs=9)\n')
    done = run_command('mmext', 'diagnose', 'run', '--json', 'answer.json', '--write-config', 'mended.py', status=status)
    assert words in done.stdout
    assert json.loads((tmp_path / 'answer.json').read_text())['status'] == ('problem' if status else 'not-enough-evidence')
    assert (tmp_path / 'mended.py').exists() == bool(status)
    assert ('No remedy is a config line' in done.stdout) == (not status)


def test_compare_writes_what_it_shows_and_takes_a_parent(run_command, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / 'runs/a', ignore=shutil.ignore_patterns('*.pth'))
    (tmp_path / 'runs/b/20260101_000000').mkdir(parents=True)
    files = ['--csv', 'r.csv', '--markdown', 'r.md', '--json', 'r.json']
    done = run_command('mmext', 'compare', 'runs', 'nowhere', '--sort', 'mask_ap', *files)
    for words in ('finished', 'mask', 'nowhere: there is no such folder'):
        assert words in done.stdout
    record = json.loads((tmp_path / 'r.json').read_text())
    assert [(run['run'], run['state']) for run in record['runs']] == [
        ('a', 'finished'),
        ('b', 'empty'),
        ('nowhere', 'unreadable'),
    ]
    assert (tmp_path / 'r.csv').read_text().startswith('run,path,state')
    assert '| run |' in (tmp_path / 'r.md').read_text()
    again = run_command('mmext', 'compare', 'runs', 'nowhere', '--sort', 'mask_ap')  # by what was kept
    assert again.stdout == done.stdout
    one = run_command('mmext', 'compare', 'runs', '--columns', 'state,share_mask')
    assert 'share' in one.stdout
    assert 'Validation' not in one.stdout
    assert 'mask_ap\tcoco/segm_mAP' in run_command('mmext', 'compare', 'runs', '--columns', 'list').stdout


@pytest.mark.parametrize('tool', ['compare_runs', 'diagnose_run'])
def test_the_tools_are_the_commands(run_folder, tmp_path, tool):
    path = Path(__file__).parents[1] / f'tools/analysis_tools/{tool}.py'
    done = subprocess.run([sys.executable, path, run_folder], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert 'Traceback' not in done.stderr
    assert done.stdout


def test_diagnose_without_a_run_is_exit_code_2(run_command, tmp_path):
    (tmp_path / 'empty').mkdir()
    for folder, words in (('no', 'there is no such folder'), ('empty', 'no run in it')):
        assert words in run_command('mmext', 'diagnose', folder, status=2).stdout
    assert 'there is no such folder' in run_command('mmext', 'diagnose', 'no', '--watch', status=2).stdout
    assert 'there is no such folder' in run_command('mmext', 'diagnose', 'no', '--deep', status=2).stdout
    assert 'exclude each other' in run_command('mmext', 'diagnose', 'no', '--deep', '--watch', status=2).stdout
    assert '--overfit and --watch' in run_command('mmext', 'diagnose', 'no', '--overfit', '4', '--watch', status=2).stdout
    assert '2<=x<=8' in run_command('mmext', 'diagnose', 'no', '--overfit', '9', status=2).stdout
