import shutil
from pickle import UnpicklingError

import pytest
import torch

from mmext.errors import InputError
from mmext.hooks.resume import newest_whole_checkpoint

HOOKS = {
    'resume': {'type': 'mmext.ResumeHook'},
    'group_lr': {'type': 'mmext.GroupLRHook'},
    'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1},
}
STOCK = {'resume': {'type': 'mmext.ResumeHook'}, 'checkpoint': {'type': 'CheckpointHook', 'interval': 1}}
PLATEAU = {'type': 'ReduceOnPlateauLR', 'monitor': 'size', 'rule': 'greater', 'patience': 0, 'factor': 0.5}
COSINE = {'type': 'CosineAnnealingLR', 'eta_min_ratio': 0.01, 'by_epoch': True, 'convert_to_iter_based': True}


@pytest.fixture
def three(train_tiny, tmp_path):
    """A folder with epoch_1.pth to epoch_3.pth."""
    train_tiny(default_hooks=HOOKS, epochs=3)
    return tmp_path / 'run'


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def log_of(runner):
    from pathlib import Path

    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


def test_the_named_file_is_taken(three):
    assert newest_whole_checkpoint(three) == (three / 'epoch_3.pth', [])


def test_a_damaged_file_is_never_the_latest(three):
    cut(three / 'epoch_3.pth')
    path, lines = newest_whole_checkpoint(three)
    assert path == three / 'epoch_2.pth'
    assert lines == [
        f'{three}/epoch_3.pth is damaged: it cannot be read to its end.',
        f'The one before it is taken: {three}/epoch_2.pth.',
    ]
    cut(three / 'epoch_2.pth')
    assert newest_whole_checkpoint(three)[0] == three / 'epoch_1.pth'
    cut(three / 'epoch_1.pth')
    with pytest.raises(InputError, match=r'epoch_1.pth is damaged.*\nNo other checkpoint is left'):
        newest_whole_checkpoint(three)


def test_files_of_an_earlier_longer_run_are_not_taken(three):
    (three / 'last_checkpoint').write_text(str(three / 'epoch_2.pth'))
    cut(three / 'epoch_2.pth')
    assert newest_whole_checkpoint(three)[0] == three / 'epoch_1.pth'


def test_a_moved_or_copied_folder_uses_its_own_files(three, tmp_path):
    shutil.copytree(three, tmp_path / 'copy')
    path, lines = newest_whole_checkpoint(tmp_path / 'copy')
    assert path == tmp_path / 'copy' / 'epoch_3.pth'
    assert lines[0].startswith(f'last_checkpoint says {three}/epoch_3.pth; the file of this name in')
    shutil.rmtree(three)
    assert newest_whole_checkpoint(tmp_path / 'copy')[0] == tmp_path / 'copy' / 'epoch_3.pth'


def test_files_of_out_dir_are_found_where_they_were_written(three, tmp_path):
    (tmp_path / 'work_dir').mkdir()
    (tmp_path / 'work_dir' / 'last_checkpoint').write_text(str(three / 'epoch_3.pth'))
    assert newest_whole_checkpoint(tmp_path / 'work_dir') == (three / 'epoch_3.pth', [])


def test_a_lost_file_is_said(three):
    (three / 'epoch_3.pth').unlink()
    path, lines = newest_whole_checkpoint(three)
    assert path == three / 'epoch_2.pth'
    assert lines[0].startswith('epoch_3.pth, the last checkpoint of this run, is neither in')


def test_nothing_to_resume(train_tiny, tmp_path):
    assert newest_whole_checkpoint(tmp_path) == (None, [])
    runner, _ = train_tiny(default_hooks=HOOKS, resume=True)
    assert runner.epoch == 2
    assert 'to go on from: training starts at the beginning' in log_of(runner)


def test_training_resumes_from_the_one_before_a_damaged_file(train_tiny, three):
    cut(three / 'epoch_3.pth')
    runner, lines = train_tiny(default_hooks=HOOKS, epochs=3, resume=True)
    assert {line['epoch'] for line in lines} == {3}
    assert 'epoch_3.pth is damaged' in log_of(runner)


def test_a_damaged_file_that_was_asked_for_is_an_error(train_tiny, three):
    cut(three / 'epoch_3.pth')
    with pytest.raises(InputError, match=r'resume from .*epoch_3.pth: the file is damaged'):
        train_tiny(default_hooks=HOOKS, resume=True, load_from=str(three / 'epoch_3.pth'))


@pytest.mark.parametrize('hooks', [HOOKS, STOCK])
def test_a_resumed_run_equals_an_undisturbed_one(train_tiny, tmp_path, hooks):
    """No seed is set; validation, plateau and early stopping are on; the data draw from all generators."""
    stop = {'type': 'EarlyStoppingHook', 'monitor': 'size', 'rule': 'less', 'patience': 3, 'min_delta': 0.0}
    settings = {
        'default_hooks': hooks,
        'epochs': 6,
        'noisy': True,
        'shuffle': True,
        'validate': True,
        'batch_size': 2,
        'norm': True,
        'param_scheduler': [COSINE, PLATEAU],
        'custom_hooks': [stop],
        'custom_keys': {'mask_head': {'lr_mult': 10}},
    }
    calm, _ = train_tiny(**settings)
    copy = tmp_path / 'copy'
    copy.mkdir()
    shutil.copy(tmp_path / 'run' / 'epoch_3.pth', copy)
    (copy / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'epoch_3.pth'))
    resumed, _ = train_tiny(**settings, folder='copy', resume=True)
    same = [torch.equal(w, resumed.model.state_dict()[name]) for name, w in calm.model.state_dict().items()]
    # MMEngine's own file has neither the random numbers nor the order of the data
    assert all(same) == (hooks is HOOKS)
    if hooks is HOOKS:
        assert resumed.optim_wrapper.get_lr() == calm.optim_wrapper.get_lr()
        assert calm.optim_wrapper.get_lr()['lr'][0] < 0.01  # the plateau has reduced


def test_a_validation_that_was_not_reached_is_done_first(train_tiny, tmp_path):
    from mmengine.hooks import Hook

    class Killed(BaseException):
        pass

    class Kill(Hook):
        priority = 'LOWEST'

        def after_val_epoch(self, runner, metrics=None):
            if runner.epoch == 2:
                raise Killed

    settings = {'default_hooks': HOOKS, 'epochs': 4, 'validate': True, 'noisy': True, 'param_scheduler': [COSINE, PLATEAU]}
    calm, _ = train_tiny(**settings, folder='calm')
    # the other run must begin with the very seed that the first one drew
    settings['randomness'] = {'seed': calm.seed}
    calm, _ = train_tiny(**settings, folder='calm')
    with pytest.raises(Killed):
        train_tiny(**settings, custom_hooks=[Kill()])
    assert not torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=True)['mmext']['validated']
    resumed, lines = train_tiny(**settings, resume=True)
    assert 'size' in lines[0]
    assert lines[0]['step'] == 2
    assert 'The last epoch has not been validated: it is done now.' in log_of(resumed)
    assert all(torch.equal(w, resumed.model.state_dict()[name]) for name, w in calm.model.state_dict().items())


def test_another_batch_size_keeps_the_place_in_the_schedule(train_tiny, tmp_path):
    settings = {'default_hooks': HOOKS, 'epochs': 4, 'param_scheduler': [COSINE]}
    train_tiny(**settings)
    _, lines = train_tiny(**settings, resume=True, load_from=str(tmp_path / 'run' / 'epoch_2.pth'), batch_size=2)
    _, fresh = train_tiny(**settings, batch_size=2, folder='fresh')
    assert lines[0]['step'] == 7
    assert [line['lr'] for line in lines] == pytest.approx([line['lr'] for line in fresh[6:]])


def test_a_run_that_stopped_early_stays_stopped(train_tiny):
    stop = {'type': 'EarlyStoppingHook', 'monitor': 'size', 'rule': 'greater', 'patience': 2, 'min_delta': 0.0}
    settings = {'default_hooks': HOOKS, 'epochs': 8, 'validate': True}
    runner, _ = train_tiny(**settings, custom_hooks=[stop])
    stopped = runner.epoch
    assert stopped < 8
    again, _ = train_tiny(**settings, custom_hooks=[stop], resume=True)
    assert again.epoch == stopped
    assert (
        'This run had stopped early: size did not improve in 2 validations in a row, patience is 2, its best is 0.1642'
        in log_of(again)
    )
    further, _ = train_tiny(**settings, custom_hooks=[{**stop, 'patience': 4}], resume=True)
    assert further.epoch == stopped + 2


def test_rates_old_and_new_are_logged_by_part(train_tiny, three):
    runner, lines = train_tiny(default_hooks=HOOKS, epochs=4, resume=True, custom_keys={'mask_head': {'lr_mult': 15}})
    assert lines[0]['mask_head_lr'] == pytest.approx(15 * lines[0]['backbone_lr'])
    log = log_of(runner)
    assert '| mask_head | 2.000e-02 | 3.000e-01 |       2 |          2 |' in log
    assert 'Optimizer state found by name: 4 of 4 tensors; rates of the config as it is now.' in log


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
@pytest.mark.parametrize('workers', [0, 1])
def test_iteration_based_training_keeps_the_order_of_its_data(train_tiny, tmp_path, sampler, workers):
    from mmengine.hooks import Hook

    seen = []

    class Record(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append((runner.iter, data_batch['inputs'][0, 0].item()))

    hooks = HOOKS | {'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 5, 'by_epoch': False}}
    settings = {'default_hooks': hooks, 'train_cfg': {'by_epoch': False, 'max_iters': 9}, 'shuffle': True}
    settings |= {'custom_hooks': [Record()], 'sampler': sampler, 'workers': workers}
    train_tiny(**settings)
    calm, _ = list(seen), seen.clear()
    checkpoint = str(tmp_path / 'run' / 'iter_5.pth')
    runner, _ = train_tiny(**settings, resume=True, load_from=checkpoint)
    assert seen == calm[5:]
    assert 'Iteration-based loop: the order of the data is kept' in log_of(runner)


def test_code_in_a_checkpoint_is_not_run(train_tiny, three, tmp_path):
    """MMEngine runs meta.config as Python when it resumes."""
    path = three / 'epoch_3.pth'
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['config'] = f'open({str(tmp_path / "was_run")!r}, "w").close()'
    torch.save(checkpoint, path)
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=4, resume=True)
    assert runner.epoch == 4
    assert not (tmp_path / 'was_run').exists()
    assert "The checkpoint's meta.config is Python code, and was not run." in log_of(runner)


def test_code_in_a_checkpoint_is_not_run_by_the_other_runner_either(train_tiny, tmp_path):
    from mmengine.runner import FlexibleRunner

    train_tiny(default_hooks=STOCK, epochs=3, constructor='stock')
    three = tmp_path / 'run'
    checkpoint = torch.load(three / 'epoch_3.pth')
    checkpoint['meta']['config'] = f'open({str(tmp_path / "was_run")!r}, "w").close()'
    torch.save(checkpoint, three / 'epoch_3.pth')
    tiny = train_tiny(default_hooks=HOOKS, start=False, folder='other')
    runner = FlexibleRunner(
        model=tiny.model,
        work_dir=str(tmp_path / 'flexible'),
        train_dataloader=tiny._train_dataloader,
        train_cfg={'by_epoch': True, 'max_epochs': 4},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.02, 'momentum': 0.9}},
        default_hooks={'resume': {'type': 'mmext.ResumeHook'}},
        resume=True,
        load_from=str(three / 'epoch_3.pth'),
        experiment_name='flexible',
        default_scope='mmdet',
    )
    runner.train()
    assert runner.epoch == 4
    assert not (tmp_path / 'was_run').exists()


def test_mmengines_own_checkpoint_loads_and_resumes(train_tiny, tmp_path):
    runner, _ = train_tiny(default_hooks=STOCK)
    weights = runner.model.state_dict()
    path = tmp_path / 'run' / 'epoch_2.pth'
    assert torch.load(path, weights_only=True)['message_hub']['log_scalars']['train/loss'].mean() > 0
    again, _ = train_tiny(default_hooks=STOCK, load_from=str(path), resume=True, epochs=2)
    assert again.epoch == 2
    assert all(torch.equal(weight, again.model.state_dict()[name]) for name, weight in weights.items())


def test_a_foreign_pickle_is_refused(train_tiny, tmp_path):
    class Foreign:
        def __reduce__(self):
            return (print, ('ran',))

    torch.save({'state_dict': {}, 'meta': Foreign()}, tmp_path / 'bad.pth')
    with pytest.raises(UnpicklingError, match='GLOBAL print was not an allowed global'):
        train_tiny(default_hooks=HOOKS, load_from=str(tmp_path / 'bad.pth'))


def test_resume_does_not_drop_load_from_in_silence(train_tiny, tmp_path):
    """MMDetection's --resume sets load_from to None; with no checkpoint to go on from, the run would lose its weights."""
    config = tmp_path / 'config.py'
    config.write_text("load_from = 'coco.pth'\n")
    runner = train_tiny(default_hooks=HOOKS, resume=True, start=False)
    object.__setattr__(runner.cfg, '_filename', str(config))
    with pytest.raises(InputError, match=r'this run would begin without coco\.pth\. Start it without --resume'):
        runner.train()


@pytest.mark.parametrize('content', [b'', b'\xff\xfe\x00', None])
def test_without_a_readable_pointer_the_last_file_written_is_taken(three, content):
    (three / 'last_checkpoint').unlink()
    if content is not None:
        (three / 'last_checkpoint').write_bytes(content)
    path, lines = newest_whole_checkpoint(three)
    assert path == three / 'epoch_3.pth'
    assert lines


def test_nothing_is_imported_for_a_name_in_a_checkpoint(train_tiny, three, tmp_path, monkeypatch):
    (tmp_path / 'evil.py').write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\nclass Scheduler: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = three / 'epoch_3.pth'
    checkpoint = torch.load(path)
    checkpoint['meta']['cfg'] = "param_scheduler = [dict(type='evil.Scheduler')]"
    checkpoint['param_schedulers'] = [{'step': 1, 'param_name': 'lr', 'base_values': [0.02]}]
    torch.save(checkpoint, path)
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=4, resume=True, param_scheduler=[COSINE])
    assert runner.epoch == 4
    assert not (tmp_path / 'was_run').exists()


def test_a_file_of_weights_cannot_be_resumed(train_tiny, three, tmp_path):
    weights = torch.load(three / 'epoch_3.pth')['state_dict']
    torch.save({'state_dict': weights}, tmp_path / 'weights.pth')
    with pytest.raises(InputError, match=r"has no 'meta': it holds weights, not a run"):
        train_tiny(default_hooks=HOOKS, resume=True, load_from=str(tmp_path / 'weights.pth'))


def test_validation_with_resume_left_on_loads_the_weights(train_tiny, three):
    settings = {'default_hooks': HOOKS, 'validate': True, 'custom_keys': {'mask_head.bias': {'lr_mult': 3}}}
    fresh = train_tiny(**settings, start=False, folder='fresh').val()['size']
    runner = train_tiny(**settings, resume=True, start=False)
    assert runner.val()['size'] != fresh
    saved = torch.load(three / 'epoch_3.pth')['state_dict']
    assert all(torch.equal(weight, saved[name]) for name, weight in runner.model.state_dict().items())


def test_a_checkpoint_within_an_epoch_repeats_no_validation(train_tiny, tmp_path):
    within = {'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 8, 'by_epoch': False}}
    settings = {'default_hooks': HOOKS | within, 'validate': True, 'param_scheduler': [PLATEAU]}
    train_tiny(**settings, epochs=2)
    runner, lines = train_tiny(**settings, epochs=2, resume=True, load_from=str(tmp_path / 'run' / 'iter_8.pth'))
    assert lines[0]['step'] == 7  # the epoch begins again
    assert runner.param_schedulers[0].last_step == 0  # by_epoch end: the last validation of a run is none to a plateau


def test_onecycle_can_be_resumed(train_tiny, tmp_path):
    cycle = {'type': 'OneCycleLR', 'eta_max': 0.1, 'total_steps': 24, 'by_epoch': False}
    settings = {'default_hooks': HOOKS, 'epochs': 4, 'param_scheduler': [cycle]}
    calm, _ = train_tiny(**settings)
    resumed, _ = train_tiny(**settings, resume=True, load_from=str(tmp_path / 'run' / 'epoch_2.pth'))
    assert all(torch.equal(w, resumed.model.state_dict()[name]) for name, w in calm.model.state_dict().items())


def test_a_file_from_an_address_is_loaded_safely(train_tiny, three, tmp_path, monkeypatch):
    import http.server
    import threading

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))

    class Foreign:
        def __reduce__(self):
            return (open, (str(tmp_path / 'was_run'), 'w'))

    torch.save({'state_dict': {}, 'meta': Foreign()}, three / 'bad.pth')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(three))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    runner, _ = train_tiny(default_hooks=HOOKS, load_from=f'{address}/epoch_3.pth', folder='from address')
    assert runner.epoch == 2
    with pytest.raises(UnpicklingError, match='was not an allowed global'):
        train_tiny(default_hooks=HOOKS, load_from=f'{address}/bad.pth', folder='bad')
    assert not (tmp_path / 'was_run').exists()
    server.shutdown()
