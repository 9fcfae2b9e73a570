"""Files that are there whole or not at all: a process killed while it writes leaves the file before as it was."""

import os
import zipfile
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

_UNFINISHED = '.unfinished'


def write_atomically(data: bytes, path: str | Path) -> None:
    """Write to a temporary file beside ``path``, have it on the disk, and rename it.

    Raises:
        OSError: the disk is full, or the folder cannot be written to. ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        with unfinished.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # the rename is in the folder's own data; Windows cannot open a folder and needs no such call
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: str | Path) -> list[str]:
    """Remove what a killed process was about to write; returns the names of the files that it was for."""
    found = sorted(Path(folder).glob(f'*{_UNFINISHED}'))
    for file in found:
        file.unlink()
    return [file.name.removesuffix(_UNFINISHED) for file in found]


def is_whole_checkpoint(path: str | Path) -> bool:
    """Whether a checkpoint file can be read to its end, by the check sums that ``torch.save`` writes.

    Files of torch < 1.6 have none; they pass when they begin as such a file does.
    """
    path = Path(path)
    if path.is_dir():  # DeepSpeed and FSDP write folders, one file a process
        return True
    try:
        with path.open('rb') as file:
            if file.read(2) == b'\x80\x02':
                return True
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


@register_backend('mmext.atomic', force=True)
class AtomicBackend(LocalBackend):
    """MMEngine's local files, written with :func:`write_atomically`: ``backend_args=dict(backend='mmext.atomic')``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomically(obj, filepath)
