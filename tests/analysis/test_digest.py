import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from mmext.analysis import digest as digests
from mmext.analysis.digest import CACHE, read_digest
from mmext.analysis.runs import read_run
from mmext.analysis.work_dirs import find_runs

STAMP = '20260101_000000'
LONG_AGO = time.time() - 86_400


def write_run(work_dir, lines, stamp=STAMP, epochs=3, changed=LONG_AGO, **records):
    """A start's log of lines (dicts, or text as it is), and its records by file name without ``.json``."""
    log = work_dir / stamp / 'vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines) + '\n')
    (log.parent / 'config.py').write_text(f'train_cfg = dict(max_epochs={epochs})\n')
    for name, record in records.items():
        (work_dir / stamp / f'{name}.json').write_text(json.dumps(record))
    os.utime(log, (changed, changed))
    return log


def train(step, epoch=1, **more):
    return {
        'loss': 1.0,
        'loss_mask': 0.3,
        'loss_cls': 0.7,
        'time': 0.5,
        'memory': 100 + step,
        'epoch': epoch,
        'step': step,
        **more,
    }


def validation(step, mask_ap=0.2):
    return {'coco/segm_mAP': mask_ap, 'step': step}


def read(work_dir, **options):
    (place,) = find_runs([work_dir])
    return read_digest(place, **options)


def test_a_run_in_short(tmp_path):
    write_run(tmp_path / 'a', [train(10), validation(10), train(20, 2, time=0.7), validation(20, 0.3)])
    run = read(tmp_path / 'a', curves=True)
    assert (run.done, run.planned, run.iterations, run.memory, run.unit) == (2, 3, 20, 120, 'epoch')
    assert run.seconds in (0.5, 0.7)
    assert [line['coco/segm_mAP'] for line in run.val] == [0.2, 0.3]
    assert [line['step'] for line in run.train] == [10, 20]
    assert run.verdict.source == 'the records'
    assert read(tmp_path / 'a').train == ()


ALL = {'reason': 'length', 'text': 'Training ended: all 3 epochs are done.'}
EARLY = {'reason': 'stopped', 'text': 'Training ended: epoch 2 of 3 was the last: patience.'}


@pytest.mark.parametrize(
    ('lines', 'more', 'state'),
    [
        ([train(10, 3), validation(10)], {'run_end': ALL}, 'finished'),
        ([train(10, 2)], {'run_end': EARLY}, 'stopped early'),
        ([train(10), train(20, 2), train(30, 3), validation(30)], {}, 'finished'),  # stock writes no record of its end
        ([train(10)], {}, 'broken off'),
        ([train(10)], {'changed': time.time()}, 'running'),
        ([], {'changed': time.time()}, 'running'),
        ([''], {}, 'unreadable'),
        (['garbage'], {}, 'unreadable'),
    ],
)
def test_what_has_become_of_it(tmp_path, lines, more, state):
    write_run(tmp_path / 'a', lines, **more)
    assert read(tmp_path / 'a').state == state
    assert read(tmp_path / 'a').state == state  # from what was kept


def test_a_start_that_has_no_log_is_empty(tmp_path):
    (tmp_path / 'a' / STAMP).mkdir(parents=True)
    assert read(tmp_path / 'a').state == 'empty'


def test_stock_early_stopping_and_the_guard(tmp_path):
    log = write_run(tmp_path / 'a', [train(10)])
    (tmp_path / 'a' / STAMP / f'{STAMP}.log').write_text(
        'INFO - the monitored metric did not improve in the last 10 records. best score: 0.3.\n'
    )
    os.utime(tmp_path / 'a' / STAMP / f'{STAMP}.log', (LONG_AGO, LONG_AGO))
    assert read(tmp_path / 'a').state == 'stopped early'
    write_run(tmp_path / 'b', [train(10)])
    (tmp_path / 'b/loss_guard').mkdir()
    (tmp_path / 'b/loss_guard/iter_11.json').write_text('{"iteration": 11, "state_before": "x.pth", "reason": "NaN"}')
    assert read(tmp_path / 'b').state == 'stopped early'
    assert log.exists()


def test_a_start_that_logs_nothing_does_not_undo_an_end(tmp_path):
    write_run(tmp_path / 'a', [train(10, 3), validation(10)], run_end=ALL)
    write_run(tmp_path / 'a', [], stamp='20260102_000000')
    run = read(tmp_path / 'a')
    assert (run.state, run.idle) == ('finished', ('20260102_000000',))
    assert read_run(tmp_path / 'a').end == ALL['text']


def test_the_verdict_of_the_training_comes_first(tmp_path):
    finding = {'code': 'mask-rate-low', 'severity': 'severe'}
    record = {'status': 'problem', 'verdict': 'The mask head is slow.', 'findings': [finding]}
    write_run(tmp_path / 'a', [train(10)], diagnosis=record)
    verdict = read(tmp_path / 'a').verdict
    assert (verdict.code, verdict.text, verdict.source) == ('mask-rate-low', 'The mask head is slow.', 'diagnosis.json')
    write_run(tmp_path / 'b', [train(10)], diagnosis={'status': 1, 'verdict': [], 'findings': 'x'})
    assert read(tmp_path / 'b').verdict.source == 'the records'


# ---- long logs


def test_a_long_log_is_thinned_and_its_ends_and_extremes_are_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, 'MOST_LINES', 8)
    lines = []
    for step in range(1, 101):
        lines.append(train(step, loss=float('nan')) if step == 50 else train(step))
        lines.append(validation(step, 0.9 if step == 37 else step / 1000))
    write_run(tmp_path / 'a', lines)
    run = read(tmp_path / 'a', curves=True)
    steps = [line['step'] for line in run.train]
    assert (steps[0], steps[-1], run.last['step'], run.memory) == (1, 100, 100, 200)
    assert len(steps) <= 8 + 2
    assert 50 in steps  # a loss that is no number is never passed over
    assert steps == sorted(steps)
    measured = {line['step']: line['coco/segm_mAP'] for line in run.val}
    assert len(measured) <= 8 + 5
    assert (measured[37], measured[100], min(measured)) == (0.9, 0.1, 1)
    assert run.verdict.source == 'every 16th log line'


def test_reading_every_nth_line_is_reading_all_when_there_are_few(tmp_path):
    write_run(tmp_path / 'a', [train(step) for step in range(1, 20)] + [validation(19)])
    few = read_run(tmp_path / 'a', most=1000)
    assert few == read_run(tmp_path / 'a')


# ---- what is kept


@pytest.fixture
def no_reading(monkeypatch):
    """From its call on, a run that is read anew fails the test."""

    def forbid():
        monkeypatch.setattr(digests, 'read_run', lambda *arguments: pytest.fail('the log was read again'))

    return forbid


def test_what_was_kept_is_the_same(tmp_path, no_reading):
    write_run(tmp_path / 'a', [train(10), validation(10), train(20, 2, loss=float('nan'))])
    first = read(tmp_path / 'a', curves=True)
    no_reading()
    again = read(tmp_path / 'a', curves=True)
    assert json.dumps(digests.asdict(again), default=str) == json.dumps(digests.asdict(first), default=str)


def test_a_run_that_was_moved_is_not_read_again(tmp_path, no_reading):
    write_run(tmp_path / 'a', [train(10)])
    read(tmp_path / 'a')
    (tmp_path / 'a').rename(tmp_path / 'b')
    no_reading()
    assert (read(tmp_path / 'b').name, read(tmp_path / 'b').path) == ('b', tmp_path / 'b')


def test_it_is_read_again_when_anything_has_changed(tmp_path):
    log = write_run(tmp_path / 'a', [train(10)])
    assert read(tmp_path / 'a').iterations == 10
    with log.open('a') as file:
        file.write(json.dumps(train(20)) + '\n')
    assert read(tmp_path / 'a').iterations == 20
    (log.parent / 'config.py').write_text('train_cfg = dict(max_epochs=77)\n')
    assert read(tmp_path / 'a').planned == 77
    (tmp_path / 'a' / STAMP / 'run_end.json').write_text(json.dumps(EARLY))
    assert read(tmp_path / 'a').state == 'stopped early'
    write_run(tmp_path / 'a', [train(30, 2)], stamp='20260102_000000')
    assert read(tmp_path / 'a').iterations == 30


def test_other_code_reads_again(tmp_path, monkeypatch):
    write_run(tmp_path / 'a', [train(10)])
    read(tmp_path / 'a')
    monkeypatch.setattr(digests, '_code', lambda: 1)
    calls = []
    monkeypatch.setattr(digests, 'read_run', lambda *arguments: calls.append(1) or read_run(*arguments))
    read(tmp_path / 'a')
    assert calls


@pytest.mark.parametrize('kept', [b'', b'{"key": 1', b'[]', b'\xff\x00', b'{"key": null, "digest": {}}\n', b'[' * 100_000])
def test_a_broken_or_deleted_cache_is_no_problem(tmp_path, kept):
    log = write_run(tmp_path / 'a', [train(10)])
    read(tmp_path / 'a')
    log.with_name(CACHE).write_bytes(kept)
    assert read(tmp_path / 'a').iterations == 10
    log.with_name(CACHE).unlink()
    assert read(tmp_path / 'a').iterations == 10


def test_a_half_written_cache_is_not_used(tmp_path):
    log = write_run(tmp_path / 'a', [train(10), train(20)])
    read(tmp_path / 'a')
    kept = log.with_name(CACHE).read_bytes()
    log.with_name(CACHE).write_bytes(kept[:-10])
    assert [line['step'] for line in read(tmp_path / 'a', curves=True).train] == [10, 20]


def test_a_work_dir_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    log = write_run(tmp_path / 'a', [train(10)])

    def refuse(*arguments, **options):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(type(log), 'write_text', refuse)
    assert read(tmp_path / 'a').iterations == 10
    assert sorted(file.name for file in log.parent.iterdir()) == ['config.py', 'scalars.json']


def test_the_check_sum_is_of_all_code_that_reads_and_judges():
    code = 'import sys, mmext.analysis.digest, mmext.analysis.diagnose; print(*sys.modules)'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    used = {name.rpartition('.')[2] for name in loaded if name.startswith('mmext.analysis.')}
    assert used == set(digests._CODE)


def test_a_folder_of_a_start_that_vanishes_is_no_crash(tmp_path):
    write_run(tmp_path / 'a', [train(10)])
    (place,) = find_runs([tmp_path / 'a'])
    shutil.rmtree(tmp_path / 'a' / STAMP)
    assert 'no run in it' in read_digest(place).problem
