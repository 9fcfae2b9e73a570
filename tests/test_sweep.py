import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from mmext import sweep
from mmext.errors import InputError

KEY = 'optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult'

# a training in small: counts its starts, and behaves as its second argument says
FAKE = """
import json, os, pathlib, subprocess, sys, time
work_dir, how, resume = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with (work_dir / 'starts.txt').open('a') as file:
    file.write(f'{resume} {os.environ.get("CUDA_VISIBLE_DEVICES")} {os.environ.get("OMP_NUM_THREADS")}\\n')
logs = work_dir / f'2026010{len((work_dir / "starts.txt").read_text().splitlines())}_000000' / 'vis_data'
logs.mkdir(parents=True)
(logs / 'scalars.json').write_text('{"loss": 1.0, "epoch": 1, "step": 1}\\n{"coco/segm_mAP": 0.25, "step": 1}\\n')
(logs / 'config.py').write_text('train_cfg = dict(max_epochs=1)\\n')
if how == 'crash':
    print('mmext.errors.InputError: the disk is full\\nsubprocess.CalledProcessError: mim gives up')
    sys.exit(1)
if how in ('hang', 'orphan', 'wait'):
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])
    (work_dir / 'hangs').write_text(str(child.pid))
    if how == 'orphan':
        os.kill(os.getpid(), 9)
    while how == 'hang' or not (work_dir / 'go').exists():
        time.sleep(0.02)
    child.kill()
(logs.parent / 'run_end.json').write_text(json.dumps({'reason': 'length', 'text': 'Training ended.'}))
"""


@pytest.fixture
def runner(tmp_path):
    """Makes jobs that behave in given ways, and runs jobs with the training in small."""
    (tmp_path / 'fake.py').write_text(FAKE)

    class Runner:
        folder = tmp_path

        def jobs(self, **how):
            return [sweep.Job(name, {'how': value}, tmp_path / f'{name}.py', tmp_path / name) for name, value in how.items()]

        def run(self, jobs, slots=({},), tell=lambda line: None, progress=lambda what, done, total: None):
            def make(job, resume):
                return [sys.executable, str(tmp_path / 'fake.py'), str(job.work_dir), job.options['how'], str(resume)]

            return sweep.run_jobs(jobs, slots, tell, progress, make)

        def starts(self, name):
            return (tmp_path / name / 'starts.txt').read_text().splitlines()

        def is_free(self, name):
            with (tmp_path / name / 'console.txt').open('ab') as console:
                try:
                    fcntl.flock(console, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

        def until(self, there, seconds=60):
            limit = time.monotonic() + seconds
            while not there():
                assert time.monotonic() < limit
                time.sleep(0.02)

    return Runner()


def test_a_crash_ends_no_other_run_and_a_second_start_does_what_is_left(runner):
    lines, counts = [], []
    jobs = runner.jobs(a='fine', b='crash', c='fine')
    crashed = runner.run(jobs, tell=lines.append, progress=lambda *count: counts.append(count))
    console = runner.folder / 'b' / 'console.txt'
    assert crashed == [f'b: exit code 1: mmext.errors.InputError: the disk is full. Its output: {console}']
    assert re.fullmatch(r'a: finished after \d+ s, mask AP 0.250. 1 of 3, about \d+ s left.', lines[0])
    assert re.fullmatch(r'b: did not finish after \d+ s \(exit code 1\). 2 of 3, about \d+ s left.', lines[1])
    assert re.fullmatch(r'c: finished after \d+ s, mask AP 0.250. 3 of 3.', lines[2])
    assert counts[-1] == ('runs', 3, 3)
    lines.clear()
    assert runner.run(runner.jobs(a='fine', b='fine', c='fine'), tell=lines.append) == []
    assert lines[0] == '2 of 3 runs are finished already and are skipped.'
    assert [len(runner.starts(name)) for name in 'abc'] == [1, 2, 1]
    # without a checkpoint it began anew, and the log of the broken-off start is no run of its own
    assert runner.starts('b')[1].startswith('False')
    assert len(list((runner.folder / 'b').glob('*/vis_data'))) == 1
    assert console.read_text().startswith('mmext.errors.InputError')  # its output is kept


def test_why_a_run_ended_is_the_last_error_that_is_not_mims():
    mims = "subprocess.CalledProcessError: Command '['python', 'train.py']' "
    assert sweep.how_it_ended(1, f'{mims}died with <Signals.SIGKILL: 9>.') == (
        'killed by SIGKILL: by a person, or for want of memory'
    )
    assert sweep.how_it_ended(1, f'{mims}died with <Signals.SIGSEGV: 11>.') == 'killed by SIGSEGV'
    assert sweep.how_it_ended(-15, '') == 'killed by SIGTERM'
    output = f'KeyError: 1\nRuntimeError: out of memory.\n  File "x"\n{mims}returned non-zero exit status 1.'
    assert sweep.how_it_ended(1, output) == 'exit code 1: RuntimeError: out of memory'
    assert sweep.how_it_ended(3, 'nothing') == 'exit code 3'


def test_the_reason_is_of_this_start_and_not_of_the_one_before(runner):
    runner.run(runner.jobs(a='crash'))
    crashed = runner.run(runner.jobs(a='no such behaviour', b='orphan'))
    assert [line.partition('. Its')[0] for line in crashed] == ['b: killed by SIGKILL: by a person, or for want of memory']
    runner.run(runner.jobs(c='crash'))
    crashed = runner.run(runner.jobs(c='orphan'))
    assert 'the disk is full' not in crashed[0]


def test_a_broken_off_run_with_a_checkpoint_is_resumed_and_keeps_its_log(runner):
    import torch

    jobs = runner.jobs(a='crash', b='crash')
    runner.run(jobs)
    torch.save({'meta': {}}, runner.folder / 'a/epoch_1.pth')
    whole = (runner.folder / 'a/epoch_1.pth').read_bytes()
    (runner.folder / 'b/epoch_1.pth').write_bytes(whole[: len(whole) // 2])  # killed while it wrote its first one
    assert runner.run(runner.jobs(a='fine', b='fine')) == []
    assert [runner.starts(name)[1].split()[0] for name in 'ab'] == ['True', 'False']
    assert [len(list((runner.folder / name).glob('*/vis_data'))) for name in 'ab'] == [2, 1]


def test_a_run_whose_checkpoints_cannot_be_read_is_left_as_it_is_and_named(runner):
    """An error of a network disk looks like this too: nothing that was logged may go."""
    import torch

    runner.run(runner.jobs(a='crash', b='crash'))
    torch.save({'meta': {}}, runner.folder / 'a/epoch_1.pth')
    whole = (runner.folder / 'a/epoch_1.pth').read_bytes()
    (runner.folder / 'a/epoch_1.pth').write_bytes(whole[: len(whole) // 2])
    (runner.folder / 'a/last_checkpoint').write_text('epoch_1.pth')
    before, lines = sorted((runner.folder / 'a').rglob('*')), []
    crashed = runner.run(runner.jobs(a='fine', b='fine'), tell=lines.append)
    assert len(crashed) == 1
    assert re.search(rf'(?s)^a: .*is damaged.*To begin a anew, remove {re.escape(str(runner.folder / "a"))}\.', crashed[0])
    assert lines[0] == 'a: is not started.'
    assert sorted((runner.folder / 'a').rglob('*')) == before
    assert len(runner.starts('b')) == 2
    with pytest.raises(InputError, match='is damaged'):
        sweep.slurm_script(runner.jobs(a='fine'), runner.folder, 'mmext compare x')


def test_as_many_at_a_time_as_slots_each_with_its_device(runner):
    jobs = runner.jobs(a='wait', b='wait', c='wait', d='fine')
    slots = [{'CUDA_VISIBLE_DEVICES': '3'}, {'CUDA_VISIBLE_DEVICES': 'MIG-7'}]
    seen = []

    def watch(what, done, total):
        seen.append({name for name in 'abcd' if (runner.folder / name / 'starts.txt').exists()})
        if seen[-1] == {'a', 'b'} and all((runner.folder / name / 'hangs').exists() for name in 'ab'):
            for name in 'bc':  # b ends before a, so c gets b's device
                (runner.folder / name).mkdir(exist_ok=True)
                (runner.folder / name / 'go').touch()
        if 'd' in seen[-1]:
            (runner.folder / 'a' / 'go').touch()

    assert runner.run(jobs, slots, progress=watch) == []
    assert {'a', 'b', 'd'} not in seen
    assert [runner.starts(name)[0].split()[1] for name in 'abcd'] == ['3', 'MIG-7', 'MIG-7', 'MIG-7']


def test_of_a_killed_mim_no_training_is_left(runner):
    crashed = runner.run(runner.jobs(a='orphan', b='fine'))
    assert len(crashed) == 1
    assert crashed[0].startswith('a: killed by SIGKILL: by a person, or for want of memory. Its output: ')
    runner.until(lambda: runner.is_free('a'))  # it has started a child that would sleep two minutes


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_ends_all_processes_and_says_how_to_go_on(runner, number):
    jobs, said = runner.jobs(a='hang', b='hang', c='fine'), runner.folder / 'said.txt'

    def start():
        os.setsid()
        with said.open('a') as file:
            runner.run(jobs, [{}, {}], lambda line: print(line, file=file, flush=True))

    process = multiprocessing.get_context('fork').Process(target=start)
    process.start()
    runner.until(lambda: all((runner.folder / name / 'hangs').exists() for name in 'ab'))
    assert not runner.is_free('a')
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1  # KeyboardInterrupt, which the command turns into 130
    for name in 'ab':
        runner.until(lambda name=name: runner.is_free(name))
    assert said.read_text() == 'Stopped, with 3 runs to go. The same command goes on where it was.\n'
    assert not (runner.folder / 'c').exists()


def test_what_a_killed_command_left_training_is_waited_for_and_not_started_twice(runner):
    jobs = runner.jobs(a='wait', b='hang')
    process = multiprocessing.get_context('fork').Process(target=runner.run, args=(jobs, [{}, {}]))
    process.start()
    runner.until(lambda: all((runner.folder / name / 'hangs').exists() for name in 'ab'))
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    left = {name: int((runner.folder / name / 'hangs').read_text()) for name in 'ab'}
    lines = []

    def tell(line):
        lines.append(line)
        if 'b is still training' in line:  # a comes to its end, b and all it has started are killed
            (runner.folder / 'a/go').touch()
            os.killpg(os.getpgid(left['b']), signal.SIGKILL)

    assert runner.run(runner.jobs(a='fine', b='fine'), [{}, {}], tell) == []
    words = 'is still training, of an earlier start. It is waited for.'
    assert lines[:2] == [f'a {words}', f'b {words}']
    assert 'a: finished, mask AP 0.250. ' in ' '.join(lines)
    assert [len(runner.starts(name)) for name in 'ab'] == [1, 2]


def test_slots(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(sweep, '_cores', lambda: 8)
    assert sweep.slots_of(None, None) == [{'OMP_NUM_THREADS': '8'}]
    assert sweep.slots_of(None, 3) == [{'CUDA_VISIBLE_DEVICES': '-1', 'OMP_NUM_THREADS': '2'}] * 3
    assert [slot['CUDA_VISIBLE_DEVICES'] for slot in sweep.slots_of('0,2', 4)] == ['0', '2', '0', '2']
    assert [slot['OMP_NUM_THREADS'] for slot in sweep.slots_of('0,2', None)] == ['4', '4']
    monkeypatch.setattr(sweep, '_cores', lambda: 1)
    assert sweep.slots_of(None, 4)[0]['OMP_NUM_THREADS'] == '1'
    monkeypatch.setenv('OMP_NUM_THREADS', '5')  # a person's own word
    assert sweep.slots_of('1', None) == [{'CUDA_VISIBLE_DEVICES': '1'}]
    with pytest.raises(InputError, match="--devices: '0,' has an empty name"):
        sweep.slots_of('0,', None)


# ---- values


values = st.recursive(
    st.sampled_from(['1', '0.5', 'a', 'None', "'x,y'", 'True', '1e-3']),
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda items: st.sampled_from([f'[{",".join(items)}]', f'({",".join(items)},)'])
    ),
    max_leaves=6,
)


@given(st.lists(values, min_size=1, max_size=5))
def test_values_are_split_outside_of_brackets_and_quotes(texts):
    assert sweep.parse_setting(f'a.b={",".join(texts)}') == ('a.b', texts)
    assert sweep.split_values(' , '.join(texts)) == texts


def test_values_are_what_cfg_options_makes_of_them():
    assert [sweep.parse_value(text) for text in ('1', '0.5', 'None', 'a', '[1,2]', "'x'")] == [
        1,
        0.5,
        None,
        'a',
        [1, 2],
        'x',
    ]


@pytest.mark.parametrize('text', ['[1,2', '1]', '(1', "'a", ']1[', '(1]', '([1)]'])
def test_brackets_and_quotes_that_do_not_match(text):
    with pytest.raises(InputError, match='its brackets or quotes do not match'):
        sweep.parse_setting(f'a.b={text}')


@pytest.mark.parametrize('setting', ['a.b', 'a.b=', 'a.b=1,', '=1', ''])
def test_what_is_no_setting(setting):
    with pytest.raises(InputError, match='is not KEY=VALUE,VALUE, such as'):
        sweep.parse_setting(setting)


def test_every_combination_has_a_short_name_of_its_own(tmp_path):
    jobs = sweep.sweep_jobs({KEY: ['5', '10'], sweep.SEED: ['0', '1']}, {'a.b': 1}, tmp_path)
    assert [job.name for job in jobs] == ['lr_mult=5_seed=0', 'lr_mult=5_seed=1', 'lr_mult=10_seed=0', 'lr_mult=10_seed=1']
    assert jobs[2].options == {KEY: 10, sweep.SEED: 0, 'a.b': 1}
    assert jobs[2].work_dir == tmp_path / 'lr_mult=10_seed=0'
    both = sweep.sweep_jobs({KEY: ['5'], KEY.replace('roi', 'rpn'): ['2']}, {}, tmp_path)
    assert both[0].name == 'roi_head.lr_mult=5_rpn_head.lr_mult=2'
    assert sweep.sweep_jobs({'load_from': ["'/a b/c.pth'"]}, {}, tmp_path)[0].name == 'load_from=a-b-c.pth'
    signs = sweep.sweep_jobs({KEY: ['-1', '1', '+1']}, {}, tmp_path)
    assert [job.name for job in signs] == ['lr_mult=-1', 'lr_mult=1', 'lr_mult=+1']
    paths = [f'/{letter}{"/long" * 20}/c.pth' for letter in 'ab']
    names = [job.name for job in sweep.sweep_jobs({'load_from': paths}, {}, tmp_path)]
    assert len(set(names)) == 2
    assert all(name.endswith('-long-c.pth') and len(name) == len('load_from=') + 40 for name in names)
    with pytest.raises(InputError, match=r'several runs would have the name lr_mult=5\. Give each value once'):
        sweep.sweep_jobs({KEY: ['5', '5']}, {}, tmp_path)


def test_a_key_that_the_config_has_not_gets_the_nearest_name():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=1)), param_scheduler=[dict(type='A', end=5)]))
    assert sweep.unknown_key(cfg, 'optim_wrapper.optimizer.lr') is None
    assert sweep.unknown_key(cfg, 'param_scheduler.0.end') is None
    assert sweep.unknown_key(cfg, KEY) is None
    for key, words in (
        ('optim_wrapper.optimiser.lr', "optim_wrapper has no 'optimiser'. Did you mean 'optimizer'?"),
        ('optimizer.lr', "the config has no 'optimizer'. Did you mean 'optim_wrapper.optimizer.lr'?"),
        ('lr', "Did you mean 'optim_wrapper.optimizer.lr'?"),
        ('param_scheduler.1.end', "param_scheduler has no '1'."),
        ('optim_wrapper.optimizer.lr.x', "optim_wrapper.optimizer.lr has no 'x'."),
        ('optim_wrapper.clip', 'must get a value first: --cfg-options optim_wrapper.clip=VALUE'),
    ):
        assert words in sweep.unknown_key(cfg, key)


@pytest.mark.parametrize(
    ('settings', 'seeds', 'words'),
    [
        ([], None, 'nothing to sweep'),
        (['train_cfg.max_epochs=1', 'train_cfg.max_epochs=2'], None, 'train_cfg.max_epochs is given twice'),
        (['randomness.seed=1'], '2', 'say the same'),
        ([], '0,x', "--seeds: 'x' is not a whole number"),
        (['train_cfg.max_epoch=1', 'lr=2'], None, r"(?s)has no 'max_epoch'. Did you mean 'max_epochs'.*has no 'lr'"),
        ([f'{KEY.replace("roi", "rio")}=2'], None, "'rio_head' matches no parameter.*Did you mean 'roi_head'"),
    ],
)
def test_mistakes_are_found_before_the_first_run(tmp_path, settings, seeds, words):
    with pytest.raises(InputError, match=words):
        sweep.plan_sweep('mask-rcnn_r18_fpn_finetune', [], settings, seeds, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# ---- folds


def folded(cfg, tmp_path):
    """A config as a fold's run gets it."""
    options = sweep.fold_options(cfg, tmp_path / 'train.json', tmp_path / 'val.json')
    return Config.fromstring(sweep.config_text(cfg, sweep._job(tmp_path, 'fold0', options)), '.py')


def test_a_fold_is_set_in_wrappers_in_lists_of_evaluators_and_for_the_test(tmp_path):
    def data(**more):
        return {'type': 'CocoDataset', 'data_root': '/data', 'ann_file': 'a.json', 'data_prefix': {'img': 'train'}, **more}

    def val(**more):
        return {'dataset': data(ann_file='v.json', data_prefix={'img': 'val/'}, **more)}

    twice = {'type': 'ConcatDataset', 'datasets': [data(), data(ann_file='/data/a.json')]}
    cfg = Config(
        {
            'train_dataloader': {'dataset': {'type': 'RepeatDataset', 'times': 3, 'dataset': twice}},
            'val_dataloader': val(),
            'test_dataloader': val(),
            'val_evaluator': [{'type': 'CocoMetric', 'ann_file': '/data/v.json'}, {'type': 'mmext.MaskQualityMetric'}],
            'test_evaluator': {'type': 'CocoMetric', 'ann_file': '/data/v.json'},
        }
    )
    found = folded(cfg, tmp_path)
    train, held_out = str(tmp_path / 'train.json'), str(tmp_path / 'val.json')
    assert [one.ann_file for one in found.train_dataloader.dataset.dataset.datasets] == [train, train]
    assert [one.data_prefix.img for one in found.train_dataloader.dataset.dataset.datasets] == ['train', 'train']
    for loader in (found.val_dataloader, found.test_dataloader):
        assert (loader.dataset.ann_file, loader.dataset.data_prefix.img) == (held_out, '/data/train/')
    assert found.val_evaluator[0].ann_file == held_out
    assert 'ann_file' not in found.val_evaluator[1]
    assert found.test_evaluator.ann_file == held_out
    assert 'a.json' not in found.pretty_text
    assert 'v.json' not in found.pretty_text


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'train_dataloader.dataset.indices': 40}, r'train_dataloader.dataset.indices=40 takes a part of the file by place'),
        ({'val_dataloader.dataset.indices': [1]}, r'val_dataloader.dataset.indices=\[1\] takes a part'),
        ({'train_dataloader.dataset.ann_file': ''}, 'train_dataloader: it reads 0 COCO files'),
        ({'val_dataloader.dataset.ann_file': ''}, 'val_dataloader: it reads no COCO file'),
        (
            {'train_dataloader.dataset': {'_delete_': True, 'datasets': [{'ann_file': 'a.json'}, {'ann_file': 'b.json'}]}},
            r'it reads 2 COCO files: .*a.json, .*b.json. Folds are cut of exactly one',
        ),
    ],
)
def test_what_cannot_be_folded(change, words, tmp_path):
    loader = {'dataset': {'data_root': '/data', 'ann_file': 'a.json', 'data_prefix': {'img': 'train/'}}}
    cfg = Config({'train_dataloader': loader, 'val_dataloader': loader})
    cfg.merge_from_dict(change)
    with pytest.raises(InputError, match=words):
        folded(cfg, tmp_path)


def test_hooks_that_record_are_added_where_they_are_missing():
    ours = {'run_end': {'type': 'mmext.RunEndHook'}, 'predictions': {'type': 'mmext.PredictionsHook'}}
    assert sweep.recording(Config({'default_hooks': ours})) == {}
    for stock in ({}, {'default_hooks': {'timer': {'type': 'IterTimerHook'}, 'run_end': {'type': 'mmext.NoHook', 'x': 1}}}):
        cfg = Config({**stock, 'custom_imports': {'imports': ['theirs'], 'allow_failed_imports': False}})
        cfg.merge_from_dict(sweep.recording(cfg))
        assert {name: hook['type'] for name, hook in cfg.default_hooks.items() if name != 'timer'} == {
            name: hook['type'] for name, hook in ours.items()
        }
        assert 'x' not in cfg.default_hooks.run_end
        assert cfg.custom_imports.imports == ['theirs', 'mmext.registry']


def test_the_folds_of_a_config_are_alike_but_for_the_images(demo_config, tmp_path):
    plan = sweep.plan_folds(str(demo_config), ['train_cfg.max_epochs=1'], 2, tmp_path / 'cv')
    plan.write()
    plan.write()  # a second start
    first, second = (Config.fromfile(job.config) for job in plan.jobs)
    assert first.randomness.seed == second.randomness.seed == 0
    assert first.load_from == second.load_from
    assert first.load_from.endswith('.pth')
    assert first.pretty_text.replace('/fold0/', '/fold1/') == second.pretty_text
    images = [
        {one['id'] for one in json.loads(Path(cfg.val_evaluator.ann_file).read_text())['images']} for cfg in (first, second)
    ]
    assert not images[0] & images[1]
    assert len(images[0] | images[1]) == 8  # all that it trains on; its own validation images are in none
    changed = sweep.plan_folds(str(demo_config), ['train_cfg.max_epochs=2'], 2, tmp_path / 'cv')
    with pytest.raises(InputError, match=r'fold0 was begun with another config; it differs in train_cfg.max_epochs'):
        changed.write()
    missing = tmp_path / 'more.json'
    document = json.loads((demo_config.parent / 'train/annotations.json').read_text())
    document['images'][0]['file_name'] = 'nowhere.png'
    missing.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r'1 of 8 images are not in .*: nowhere.png'):
        sweep.plan_folds(str(demo_config), [], 2, tmp_path / 'other', ann_file=missing)


# ---- on a cluster


def test_the_script_for_slurm_runs_what_the_runner_would(runner, monkeypatch):
    """Each line of the array, run by hand: the words that `mim` gets are those of the runner's command."""
    folder = runner.folder / "a folder's"
    jobs = [sweep.Job(name, {}, folder / f'{name}.py', folder / name) for name in ('x=1', 'x=2', 'x=3')]
    end = jobs[1].work_dir / '20260101_000000' / 'run_end.json'
    (end.parent / 'vis_data').mkdir(parents=True)
    (end.parent / 'vis_data/scalars.json').write_text('{"loss": 1.0, "epoch": 1, "step": 1}\n')
    end.write_text('{"text": "Training ended."}')
    mim = runner.folder / 'mim'
    mim.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    mim.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(runner.folder / 'python'))
    file = runner.folder / 'runs.sbatch'
    file.write_text(sweep.slurm_script(jobs, folder, 'mmext compare x'))
    assert subprocess.run(['bash', '-n', file]).returncode == 0
    assert '#SBATCH --array=0-1\n' in file.read_text()
    for number, job in enumerate((jobs[0], jobs[2])):
        environment = {**os.environ, 'SLURM_ARRAY_TASK_ID': str(number)}
        done = subprocess.run(['bash', file], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == sweep.command(job, resume=False)[1:]
    with (jobs[2].work_dir / sweep.CONSOLE).open('ab') as console:  # as a training holds it
        fcntl.flock(console, fcntl.LOCK_EX)
        done = subprocess.run(['bash', file], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, '')
        again = sweep.slurm_script(jobs, folder, 'mmext compare x')
        assert '#SBATCH --array=0-0\n' in again
        assert 'the others are finished or still training (x=3)' in again
        with pytest.raises(InputError, match='x=3: still training, and all others are finished'):
            sweep.slurm_script(jobs[1:], folder, 'mmext compare x')
    for wrong in ('2', ''):
        done = subprocess.run(
            ['bash', file], env={**os.environ, 'SLURM_ARRAY_TASK_ID': wrong}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (2, 'SLURM_ARRAY_TASK_ID must be 0 to 1\n')
    assert file.read_text().rstrip().endswith('#     mmext compare x')
    with pytest.raises(InputError, match=r'All 1 runs are finished. Gather the results: mmext compare x'):
        sweep.slurm_script([jobs[1]], folder, 'mmext compare x')


def test_what_slurm_reads_in_its_lines_is_escaped(tmp_path):
    jobs = [sweep.Job('a', {}, tmp_path / 'a.py', tmp_path / 'a')]
    script = sweep.slurm_script(jobs, tmp_path / '50%', 'mmext x\nrm y')
    assert f'#SBATCH --output="{tmp_path}/50%%/slurm-%A_%a.txt"' in script
    assert script.endswith('#     mmext x\n#     rm y\n')
    with pytest.raises(InputError, match='has a quote or a line break in it'):
        sweep.slurm_script(jobs, tmp_path / 'a"b', 'mmext x')
