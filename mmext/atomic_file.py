"""Files that are there whole or not at all: a process killed while it writes leaves the file before as it was."""

import contextlib
import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError

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
    # the rename is in the folder's own data; Windows cannot open a folder, some network disks cannot sync one
    with contextlib.suppress(OSError):
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
    """Whether a checkpoint file can be read to its end: by the check sums that ``torch.save`` writes, and by torch itself.

    A file that torch refuses for what it holds is whole: whoever loads it gets the words of the refusal.
    """
    import torch

    path = Path(path)
    if path.is_dir():  # DeepSpeed and FSDP write folders, one file a process
        return True
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return False
        torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
    except UnpicklingError as error:
        return 'Weights only load failed' in str(error) and 'truncated' not in str(error)
    except Exception:  # a damaged file makes zipfile and torch raise anything
        return False
    return True
