import errno
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

import mmext.atomic_file
from mmext.errors import InputError

PLATEAU = {'type': 'ReduceOnPlateauLR', 'monitor': 'size', 'rule': 'greater', 'patience': 0, 'factor': 0.5}


def hooks(**options):
    return {
        'resume': {'type': 'mmext.ResumeHook'},
        'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1, **options},
    }


def files(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def log_of(runner):
    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


class FullDisk:
    """Lets no file of some name be written."""

    def __init__(self, monkeypatch, *names):
        self.names, self.kept = names, []
        real = mmext.atomic_file.write_atomically

        def write(data, path):
            if any(name in Path(path).name for name in self.names):
                self.kept.append(files(Path(path).parent))
                raise OSError(errno.ENOSPC, 'No space left on device')
            real(data, path)

        monkeypatch.setattr(mmext.atomic_file, 'write_atomically', write)


def test_what_validation_decided_is_in_the_file(train_tiny, tmp_path):
    stop = {'type': 'EarlyStoppingHook', 'monitor': 'size', 'rule': 'greater', 'patience': 9, 'min_delta': 0.0}
    settings = {'epochs': 3, 'validate': True, 'lr': 0.002, 'param_scheduler': [PLATEAU], 'custom_hooks': [stop]}
    runner, _ = train_tiny(default_hooks=hooks(save_best='size', rule='less'), **settings)
    (early,) = [hook for hook in runner.hooks if type(hook).__name__ == 'EarlyStoppingHook']
    ours = torch.load(tmp_path / 'run' / 'epoch_3.pth', weights_only=True)
    assert ours['mmext']['validated']
    (saved,) = ours['mmext']['early_stopping']
    assert (saved['wait_count'], saved['best_score']) == (early.wait_count, early.best_score)
    assert early.wait_count
    assert ours['param_schedulers'] == [runner.param_schedulers[0].state_dict()]
    best = ours['message_hub']['runtime_info']['best_ckpt']
    assert Path(best).name == next(name for name in files(tmp_path / 'run') if 'best' in name)
    # MMEngine writes before the validation: its plateau has not seen the last one
    stock = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1}}
    train_tiny(default_hooks=stock, **settings, folder='stock')
    steps = [torch.load(tmp_path / run / 'epoch_2.pth')['param_schedulers'][0]['last_step'] for run in ('run', 'stock')]
    assert steps == [1, 0]


def test_an_epoch_without_validation_is_written_once(train_tiny, tmp_path, monkeypatch):
    written, real = [], mmext.atomic_file.write_atomically
    monkeypatch.setattr(
        mmext.atomic_file, 'write_atomically', lambda data, path: (written.append(Path(path).name), real(data, path))
    )
    train_cfg = {'by_epoch': True, 'max_epochs': 4, 'val_interval': 2}
    train_tiny(default_hooks=hooks(), train_cfg=train_cfg, validate=True)
    assert written == ['epoch_1.pth', 'epoch_2.pth', 'epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth', 'epoch_4.pth']


def test_older_files_are_deleted_only_after_the_new_one_is_there(train_tiny, tmp_path, monkeypatch):
    there, real = [], mmext.atomic_file.write_atomically
    monkeypatch.setattr(
        mmext.atomic_file,
        'write_atomically',
        lambda data, path: (there.append((Path(path).name, files(tmp_path / 'run'))), real(data, path)),
    )
    options = {'max_keep_ckpts': 1, 'save_best': 'size', 'rule': 'less'}
    train_tiny(default_hooks=hooks(**options), epochs=3, validate=True, lr=0.002)
    assert files(tmp_path / 'run') == ['best_size_epoch_3.pth', 'epoch_3.pth']
    assert ('epoch_2.pth', ['best_size_epoch_1.pth', 'epoch_1.pth']) in there
    assert ('best_size_epoch_2.pth', ['best_size_epoch_1.pth', 'epoch_2.pth']) in there
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == str(tmp_path / 'run' / 'epoch_3.pth')


def test_several_best_scores_are_kept_apart(train_tiny, tmp_path):
    options = {'save_best': ['size', 'other'], 'rule': ['less', 'greater']}

    class Other(Hook):
        def after_val_epoch(self, runner, metrics=None):
            metrics['other'] = -runner.epoch

    runner, _ = train_tiny(default_hooks=hooks(**options), epochs=3, validate=True, lr=0.002, custom_hooks=[Other()])
    assert [name for name in files(tmp_path / 'run') if 'best' in name] == [
        'best_other_epoch_1.pth',
        'best_size_epoch_3.pth',
    ]
    info = runner.message_hub.runtime_info
    assert (info['best_score_other'], Path(info['best_ckpt_size']).name) == (-1, 'best_size_epoch_3.pth')


def test_a_full_disk_keeps_the_last_good_file_and_goes_on(train_tiny, tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch, 'epoch_2.pth')
    options = {'max_keep_ckpts': 1, 'save_best': 'size', 'rule': 'less'}
    runner, _ = train_tiny(default_hooks=hooks(**options), epochs=2, validate=True, lr=0.002)
    assert runner.epoch == 2
    assert files(tmp_path / 'run') == ['best_size_epoch_1.pth', 'epoch_1.pth']
    assert len(disk.kept) == 2  # the checkpoint and the best one
    assert (tmp_path / 'run' / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    assert Path(runner.message_hub.get_info('best_ckpt')).name == 'best_size_epoch_1.pth'
    log = log_of(runner)
    assert f'epoch_2.pth could not be written: OSError: [Errno {errno.ENOSPC}] No space left on device.' in log
    assert f'The last good checkpoint is kept: {tmp_path}/run/epoch_1.pth.' in log
    monkeypatch.undo()
    further, _ = train_tiny(default_hooks=hooks(**options), epochs=2, validate=True, lr=0.002, resume=True)
    assert files(tmp_path / 'run') == ['best_size_epoch_2.pth', 'epoch_2.pth']
    assert further.epoch == 2


def test_a_full_disk_stops_training_when_asked_to(train_tiny, tmp_path, monkeypatch):
    FullDisk(monkeypatch, 'epoch_2.pth')
    with pytest.raises(OSError, match=r'could not be written.*start again with --resume'):
        train_tiny(default_hooks=hooks(on_write_error='stop'), epochs=3)
    assert files(tmp_path / 'run') == ['epoch_1.pth']


def test_an_unknown_setting_is_refused(train_tiny):
    with pytest.raises(InputError, match="on_write_error is 'ignore'; allowed: continue, stop"):
        train_tiny(default_hooks=hooks(on_write_error='ignore'))


def test_what_a_kill_left_is_removed_and_said(train_tiny, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'epoch_7.pth.unfinished').write_bytes(b'half')
    runner, _ = train_tiny(default_hooks=hooks())
    assert not list((tmp_path / 'run').glob('*.unfinished'))
    assert 'An earlier run was stopped while it wrote epoch_7.pth' in log_of(runner)


def test_best_files_of_a_moved_folder_are_replaced(train_tiny, tmp_path):
    options = {'save_best': 'size', 'rule': 'less'}
    train_tiny(default_hooks=hooks(**options), epochs=2, validate=True, lr=0.002)
    (tmp_path / 'run').rename(tmp_path / 'moved')
    train_tiny(default_hooks=hooks(**options), epochs=3, validate=True, lr=0.002, resume=True, folder='moved')
    assert [name for name in files(tmp_path / 'moved') if 'best' in name] == ['best_size_epoch_3.pth']


def test_out_dir_gets_an_absolute_path(train_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_tiny(default_hooks=hooks(out_dir='elsewhere'))
    pointed = Path((tmp_path / 'run' / 'last_checkpoint').read_text())
    assert pointed == tmp_path / 'elsewhere' / 'run' / 'epoch_2.pth'
    assert pointed.exists()


def test_validation_alone_writes_nothing(train_tiny, tmp_path):
    runner = train_tiny(default_hooks=hooks(save_best='size', rule='less'), validate=True, start=False)
    assert runner.val()['size'] > 0
    assert files(tmp_path / 'run') == []


def test_checkpoints_within_an_epoch_are_warned_of(train_tiny, tmp_path):
    runner, _ = train_tiny(default_hooks=hooks(by_epoch=False, interval=4))
    assert files(tmp_path / 'run') == ['iter_12.pth', 'iter_4.pth', 'iter_8.pth']
    assert 'by_epoch=False in an epoch-based loop' in log_of(runner)


def test_a_copied_folder_leaves_the_best_file_of_the_first(train_tiny, tmp_path):
    settings = {'default_hooks': hooks(save_best='size', rule='less'), 'validate': True, 'lr': 0.002}
    train_tiny(**settings, epochs=2)
    before = files(tmp_path / 'run')
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    train_tiny(**settings, epochs=3, folder='copy', resume=True)
    assert files(tmp_path / 'run') == before
    assert [name for name in files(tmp_path / 'copy') if 'best' in name] == ['best_size_epoch_3.pth']


def test_a_path_that_a_checkpoint_names_is_not_deleted(train_tiny, tmp_path):
    settings = {'default_hooks': hooks(save_best='size', rule='less'), 'validate': True, 'lr': 0.002}
    train_tiny(**settings, epochs=2)
    (tmp_path / 'precious').mkdir()
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_2.pth')
    checkpoint['message_hub']['runtime_info']['best_ckpt'] = str(tmp_path / 'precious')
    torch.save(checkpoint, tmp_path / 'run' / 'epoch_2.pth')
    train_tiny(**settings, epochs=3, resume=True)
    assert (tmp_path / 'precious').exists()


def test_save_best_may_be_taken_out_of_a_moved_run(train_tiny, tmp_path):
    train_tiny(default_hooks=hooks(save_best='size', rule='less'), epochs=2, validate=True)
    (tmp_path / 'run').rename(tmp_path / 'moved')
    runner, _ = train_tiny(default_hooks=hooks(), epochs=3, validate=True, resume=True, folder='moved')
    assert runner.epoch == 3


def test_a_template_without_a_number_keeps_its_file(train_tiny, tmp_path):
    train_tiny(default_hooks=hooks(filename_tmpl='latest.pth', max_keep_ckpts=1), epochs=3)
    assert files(tmp_path / 'run') == ['latest.pth']
    assert torch.load(tmp_path / 'run' / 'latest.pth')['meta']['epoch'] == 3
