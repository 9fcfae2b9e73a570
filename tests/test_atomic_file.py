import errno
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.fileio import get_file_backend

from mmext.atomic_backend import AtomicBackend
from mmext.atomic_file import is_whole_checkpoint, remove_unfinished, write_atomically


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoint') / 'epoch_1.pth'
    torch.save({'state_dict': {'weight': torch.arange(2000.0)}, 'meta': {'epoch': 1}}, path)
    return path


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / 'new folder' / 'file'
    write_atomically(b'old', path)
    write_atomically(b'new', path)
    assert path.read_bytes() == b'new'
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomically(b'old', tmp_path / 'file')

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_atomically(b'new', tmp_path / 'file')
    assert (tmp_path / 'file').read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [tmp_path / 'file']


def test_data_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    path, synced = tmp_path / 'file', []
    write_atomically(b'old', path)
    monkeypatch.setattr(os, 'fsync', lambda descriptor: synced.append(path.read_bytes()))
    write_atomically(b'new', path)
    assert synced == [b'old', b'new']  # the file before the rename, the folder after it


def test_what_a_killed_process_left_is_removed(tmp_path):
    write_atomically(b'good', tmp_path / 'epoch_1.pth')
    (tmp_path / 'epoch_2.pth.unfinished').write_bytes(b'half')
    assert remove_unfinished(tmp_path) == ['epoch_2.pth']
    assert [path.name for path in tmp_path.iterdir()] == ['epoch_1.pth']


def test_mmengine_finds_the_backend(tmp_path):
    backend = get_file_backend(backend_args={'backend': 'mmext.atomic'})
    assert isinstance(backend, AtomicBackend)
    backend.put(b'data', str(tmp_path / 'file'))
    assert backend.get(str(tmp_path / 'file')) == b'data'


def test_whole_checkpoints_pass(checkpoint, tmp_path):
    assert is_whole_checkpoint(checkpoint)
    assert is_whole_checkpoint(tmp_path)  # a folder of DeepSpeed
    torch.save({'weight': torch.ones(3)}, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert is_whole_checkpoint(tmp_path / 'old.pth')


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_not_whole(checkpoint, share):
    data = checkpoint.read_bytes()
    cut = checkpoint.with_name('cut.pth')
    cut.write_bytes(data[: int(len(data) * share)])
    assert not is_whole_checkpoint(cut)


def test_a_file_with_a_hole_is_not_whole(checkpoint, tmp_path):
    data = bytearray(checkpoint.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    (tmp_path / 'hole.pth').write_bytes(data)
    assert not is_whole_checkpoint(tmp_path / 'hole.pth')
    assert not is_whole_checkpoint(tmp_path / 'missing.pth')


def test_a_disk_that_cannot_sync_folders_is_no_error(tmp_path, monkeypatch):
    def refuse(path, flags):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, 'open', refuse)
    write_atomically(b'new', tmp_path / 'file')
    assert (tmp_path / 'file').read_bytes() == b'new'


@given(position=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_does_no_harm(checkpoint, position, bits):
    data = bytearray(checkpoint.read_bytes())
    data[int(len(data) * position)] ^= bits
    changed = checkpoint.with_name('changed.pth')
    changed.write_bytes(data)
    if is_whole_checkpoint(changed):
        found = torch.load(changed, weights_only=True)
        assert torch.equal(found['state_dict']['weight'], torch.arange(2000.0))


def test_a_cut_file_of_the_old_format_is_not_whole(tmp_path):
    torch.save({'weight': torch.ones(300)}, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    data = (tmp_path / 'old.pth').read_bytes()
    for share in (0.2, 0.6, 0.95):
        (tmp_path / 'cut.pth').write_bytes(data[: int(len(data) * share)])
        assert not is_whole_checkpoint(tmp_path / 'cut.pth')


def test_a_file_that_torch_refuses_is_whole(tmp_path):
    class Foreign:
        def __reduce__(self):
            return (print, ('ran',))

    torch.save({'meta': Foreign()}, tmp_path / 'foreign.pth')
    assert is_whole_checkpoint(tmp_path / 'foreign.pth')
