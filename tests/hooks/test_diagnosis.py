import json
from pathlib import Path

from mmext.hooks.diagnosis import DiagnosisHook

HOOKS = {
    'loss_share': {'type': 'mmext.LossShareHook'},
    'resume': {'type': 'mmext.ResumeHook'},
    'run_end': {'type': 'mmext.RunEndHook'},
    'diagnosis': {'type': 'mmext.DiagnosisHook'},
}
SINK = 'Diagnosis: loss-exploding'


def log_of(runner):
    return ''.join(path.read_text() for path in sorted(Path(runner.work_dir).glob('*/*.log')))


def diverging(epochs, **settings):
    """A rate at which the two layers' loss grows without bound."""
    return dict(default_hooks=HOOKS, epochs=epochs, images=6, lr=0.9, losses=('mask', 'cls'), scale=2.0, **settings)


def test_the_verdict_stands_beside_the_log_and_knows_how_the_run_ended(train_tiny):
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=3, losses=('mask', 'cls'))
    record = json.loads(Path(runner.log_dir, 'diagnosis.json').read_text())
    assert record['facts']['ended'] is True
    assert record['facts']['iterations'] == 18
    assert record['remarks'] == ['Training ended: all 3 epochs are done.']
    assert ' '.join(Path(runner.log_dir, 'diagnosis.txt').read_text().split()).startswith(record['verdict'])


def test_a_severe_finding_is_one_warning_while_it_runs(train_tiny, monkeypatch):
    monkeypatch.setattr('mmext.hooks.diagnosis._COST', 1e9)  # look after every epoch, however short it is
    runner, _ = train_tiny(**diverging(4))
    log = log_of(runner)
    assert log.count(SINK) == 1
    assert 'optim_wrapper.clip_grad.max_norm=1.0' in log
    # said before the last epoch, not at the end
    assert log.index(SINK) < log.index('Training ended')
    record = json.loads(Path(runner.log_dir, 'diagnosis.json').read_text())
    assert record['findings'][0]['code'] == 'loss-exploding'
    assert record['status'] == 'problem'


def test_a_resumed_run_is_diagnosed_as_one(train_tiny):
    hooks = HOOKS | {'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1}}
    train_tiny(default_hooks=hooks, epochs=2, losses=('mask', 'cls'))
    runner, _ = train_tiny(default_hooks=hooks, epochs=4, losses=('mask', 'cls'), resume=True)
    record = json.loads(Path(runner.log_dir, 'diagnosis.json').read_text())
    assert (record['facts']['log_lines'], record['facts']['done']) == (24, 4)


def test_a_fault_in_the_diagnosis_ends_no_training_and_is_said(train_tiny, monkeypatch):
    def fail(run):
        raise KeyError('planted')

    monkeypatch.setattr('mmext.hooks.diagnosis.diagnose_run', fail)
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=2)
    assert runner.epoch == 2
    assert "KeyError: 'planted'" in log_of(runner)
    assert 'That is a defect of mmext' in log_of(runner)
    assert not Path(runner.log_dir, 'diagnosis.json').exists()


def test_a_full_disk_is_said(train_tiny, monkeypatch):
    def full(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmext.hooks.diagnosis.write_atomically', full)
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=1)
    assert 'The diagnosis could not be written' in log_of(runner)


def test_only_the_main_process_looks(train_tiny, monkeypatch):
    monkeypatch.setattr('mmext.hooks.diagnosis.is_main_process', lambda: False)
    runner, _ = train_tiny(**diverging(2))
    assert SINK not in log_of(runner)
    assert not Path(runner.log_dir, 'diagnosis.json').exists()


def test_a_long_log_is_read_more_seldom(train_tiny, monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr('mmext.hooks.diagnosis.time.monotonic', lambda: next(now))
    looks = []
    monkeypatch.setattr(DiagnosisHook, '_diagnose', lambda self, runner: looks.append(runner.epoch))
    train_tiny(default_hooks=HOOKS, epochs=6)
    # each look takes ten seconds of this clock, so the next may come after a thousand; the end has its own
    assert looks == [0, 6]


def test_the_recipes_have_it_after_run_end():
    from mmengine.config import Config

    import mmext

    hooks = list(Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune')).default_hooks)
    assert hooks.index('diagnosis') > hooks.index('run_end')
