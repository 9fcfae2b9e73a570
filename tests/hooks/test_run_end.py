import json
from pathlib import Path

from mmext.analysis.runs import read_run
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
