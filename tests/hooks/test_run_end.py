import json
from pathlib import Path

import pytest

from mmext.analysis.runs import read_run
from mmext.errors import InputError
from mmext.hooks.run_end import end_record

STOP = {'type': 'EarlyStoppingHook', 'monitor': 'size', 'rule': 'greater', 'patience': 2, 'min_delta': 0.0}
HOOKS = {
    'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1, 'save_best': 'size', 'rule': 'greater'},
    'resume': {'type': 'mmext.ResumeHook'},
    'run_end': {'type': 'mmext.RunEndHook'},
}


def last_line(runner):
    return next(Path(runner.log_dir).glob('*.log')).read_text().splitlines()[-1]


def test_early_stopping_is_the_last_line_and_in_the_record(train_tiny):
    runner, _ = train_tiny(default_hooks={**HOOKS, 'early_stopping': STOP}, epochs=9, validate=True)
    record = json.loads(Path(runner.log_dir, 'run_end.json').read_text())
    assert last_line(runner).endswith(record['text'])
    assert record['text'].startswith(
        'Training ended: epoch 4 of 9 was the last: size did not improve in 2 validations in a row, patience is 2, '
    )
    assert (record['reason'], record['done'], record['planned']) == ('stopped', 4, 9)
    assert record['best'] == [{'file': 'best_size_epoch_2.pth', 'score': runner.message_hub.get_info('best_score')}]
    assert read_run(Path(runner.work_dir)).end == record['text']
    again, _ = train_tiny(default_hooks={**HOOKS, 'early_stopping': STOP}, epochs=9, validate=True, resume=True)
    assert last_line(again).endswith(record['text'])


def test_the_planned_length_is_a_reason_too(train_tiny):
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=2)
    assert last_line(runner).endswith('Training ended: all 2 epochs are done.')
    runner, _ = train_tiny(default_hooks=HOOKS, train_cfg={'by_epoch': False, 'max_iters': 5}, folder='iterations')
    assert last_line(runner).endswith('Training ended: all 5 iterations are done.')


def test_a_run_without_a_record_has_no_end(tmp_path):
    logs = tmp_path / '20260101_000000' / 'vis_data'
    logs.mkdir(parents=True)
    (logs / 'scalars.json').write_text('{"loss": 1.0, "epoch": 1, "step": 1}\n')
    assert read_run(tmp_path).end is None
    (logs.parent / 'run_end.json').write_text('[]')
    assert read_run(tmp_path).end is None


def test_each_of_several_best_checkpoints_is_named():
    info = {'best_ckpt_a': '/x/best_a.pth', 'best_score_a': 0.5, 'best_ckpt_b': '/x/best_b.pth'}
    record = end_record(3, 9, 'epoch', 'enough', info)
    assert record['text'].endswith('enough. Best checkpoint: best_a.pth (0.5). Best checkpoint: best_b.pth.')


def test_what_another_hook_stopped_is_not_put_down_to_early_stopping_and_goes_on(train_tiny):
    from mmengine.hooks import Hook

    class Stop(Hook):
        def after_train_epoch(self, runner):
            runner.train_loop.stop_training = runner.epoch == 1

    hooks = {**HOOKS, 'early_stopping': {**STOP, 'patience': 9}}
    runner, _ = train_tiny(default_hooks=hooks, epochs=4, validate=True, custom_hooks=[Stop()])
    assert 'epoch 2 of 4 was the last: a hook has set train_loop.stop_training.' in last_line(runner)
    again, _ = train_tiny(default_hooks=hooks, epochs=4, validate=True, resume=True)
    assert again.epoch == 4


def test_a_score_of_any_kind_is_written_and_a_full_disk_ends_nothing(train_tiny, monkeypatch):
    import numpy as np

    info = {'best_ckpt': '/x/best_a.pth', 'best_score': np.float32(0.5)}
    assert json.loads(json.dumps(end_record(3, 3, 'epoch', None, info)))['best'] == [{'file': 'best_a.pth', 'score': 0.5}]

    def full(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmext.hooks.run_end.write_atomically', full)
    runner, _ = train_tiny(default_hooks={'run_end': HOOKS['run_end']}, epochs=1)
    assert 'run_end.json could not be written' in next(Path(runner.log_dir).glob('*.log')).read_text()


PLATEAU = {'type': 'ReduceOnPlateauLR', 'monitor': 'val_loss', 'rule': 'less'}


@pytest.mark.parametrize('follower', [{'param_scheduler': [PLATEAU]}, {'stop': {**STOP, 'monitor': 'val_loss'}}], ids=str)
def test_a_loop_that_gives_no_losses_is_refused_at_the_start(train_tiny, follower):
    follower = dict(follower)
    stop = follower.pop('stop', None)
    hooks = {**HOOKS, 'early_stopping': stop} if stop else HOOKS
    with pytest.raises(
        InputError, match=r'follows val_loss, which ValLoop does not give. Set val_cfg.type=mmext.LossValLoop'
    ):
        train_tiny(default_hooks=hooks, epochs=2, validate=True, **follower)


def test_a_run_without_validation_is_told_that_nothing_follows_it(train_tiny):
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=1, param_scheduler=[PLATEAU])
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'ReduceOnPlateauLR follows val_loss, and the run has no validation: it does nothing.' in log
