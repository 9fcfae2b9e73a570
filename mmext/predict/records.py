"""What was found on each image, kept on the disk, so that a start goes on where the one before ended. No torch.

Folder ``out``: ``settings.json``, what the predictions depend on; ``records/NAME.json``, one an image, written last of all
that belongs to it; ``written.json``, the SHA-256 of each file of all images, so that one that a person has edited is known.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from mmext.analysis.predictions import file_hash
from mmext.atomic_file import write_atomically
from mmext.errors import InputError
from mmext.predict.image_files import ImageFile
from mmext.predict.instances import Instances

SCHEMA_VERSION = 1
SETTINGS, RECORDS, WRITTEN = 'settings.json', 'records', 'written.json'
# of settings.json: what only tells where they come from
_ONLY_SHOWN = ('config', 'checkpoint')


def stamp_of(image: ImageFile) -> tuple[int, int]:
    """By which one sees that an image was changed: bytes, and when it was modified, in nanoseconds.

    Raises:
        InputError: it is no longer there, or cannot be looked at.
    """
    try:
        stat = image.path.stat()
    except FileNotFoundError:
        raise InputError(f'{image.path}: it is no longer there.') from None
    except OSError as error:
        raise InputError(f'{image.path}: cannot be read: {error.strerror}.') from None
    return stat.st_size, stat.st_mtime_ns


def to_record(image: ImageFile, instances: Instances, stamp: tuple[int, int]) -> bytes:
    """The instances of an image as JSON; single-precision numbers come back to the last bit.

    Args:
        image: where it lies, and its name.
        instances: what was found on it.
        stamp: from :func:`stamp_of`, taken before the image was read: one that was replaced since is then seen as changed.
    """
    size, modified = stamp
    record = {
        'schema_version': SCHEMA_VERSION,
        'image': image.file_name,
        'path': str(image.path.absolute()),
        'bytes': size,
        'modified_ns': modified,
        'size': [int(side) for side in instances.size],
        'class_names': list(instances.class_names),
        'labels': instances.labels.tolist(),
        'scores': instances.scores.astype(np.float32).tolist(),
        'boxes': instances.boxes.astype(np.float32).tolist(),
        'rles': [_text(rle['counts']) for rle in instances.rles],
    }
    return json.dumps(record).encode()


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def read_record(out: Path, image: ImageFile) -> Instances | None:
    """What was found on an image; None when it was not looked at, is another file by now, or the record is broken."""
    try:
        record = json.loads(record_path(out, image).read_bytes())
        if (record['schema_version'], record['path'], record['bytes'], record['modified_ns']) != (
            SCHEMA_VERSION,
            str(image.path.absolute()),
            *stamp_of(image),
        ):
            return None
        size = tuple(record['size'])
        return Instances(
            size,
            np.array(record['labels'], np.int64),
            np.array(record['scores'], np.float32),
            np.array(record['boxes'], np.float32).reshape(-1, 4),
            [{'size': list(size), 'counts': counts.encode()} for counts in record['rles']],
            tuple(record['class_names']),
        )
    except (OSError, ValueError, KeyError, TypeError):  # not there (InputError is a ValueError), or edited: predicted again
        return None


def record_path(out: Path, image: ImageFile) -> Path:
    """Where the record of an image lies."""
    return out / RECORDS / f'{image.name}.json'


def check_names(out: Path, images: Sequence[ImageFile]) -> None:
    """Refuse to replace what was found on another image that has the same name.

    Raises:
        InputError: names both images.
    """
    for image in images:
        try:
            before = Path(json.loads(record_path(out, image).read_bytes())['path'])
        except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is broken and predicted again
            continue
        if before.resolve() != image.path.resolve():  # the same by another way is predicted again
            raise InputError(
                f'--out: {out} has predictions of {before} under the name {image.name}, which {image.path.absolute()} would '
                'get too. Give another folder, name both in one command, or --force to start anew.'
            )


def keep_settings(out: Path, settings: Mapping, force: bool, folders: tuple[str, ...]) -> None:
    """Write what the predictions depend on, or hold it against what an earlier start has written.

    Args:
        out: made when it is not there.
        settings: JSON; where they differ from an earlier start's, what is done already is no good. If nothing is done,
            they may differ.
        force: then remove that, and start anew.
        folders: of ``out`` to remove with the records.

    Raises:
        InputError: they differ.
    """
    file = out / SETTINGS
    settings = {'schema_version': SCHEMA_VERSION, **settings}
    if out.exists() and not out.is_dir():
        raise InputError(f'--out: {out} is a file; give a folder.')
    if file.is_file():
        try:
            before = json.loads(file.read_bytes())
        except ValueError:
            before = None
        if not isinstance(before, dict):
            before = {}
        now = json.loads(json.dumps(settings))
        differ = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in _ONLY_SHOWN]
        if differ and not force and any((out / RECORDS).rglob('*.json')):
            words = '; '.join(f'{key.replace("_", " ")} was {before.get(key)}, now {now.get(key)}' for key in differ)
            raise InputError(
                f'--out: {out} has predictions of an earlier start with other settings: {words}. Give another folder, or '
                '--force to start anew.'
            )
        if not differ and not force:
            return
    if force:
        for folder in (RECORDS, *folders):
            if (out / folder).is_dir():
                shutil.rmtree(out / folder)
        for name, digests in _read_hashes(out).items():  # those of other formats would be of older predictions
            if (out / name).exists() and _is_ours(out / name, digests, ''):
                (out / name).unlink()
    write_atomically((json.dumps(settings, indent=2) + '\n').encode(), file)


def write_joined(out: Path, contents: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """Write the files of all images. One that a person has edited stays, and the new one is written beside it.

    Args:
        out: their folder.
        contents: file name to text.

    Returns:
        The files as they are named now, and a line for each that stayed.
    """
    hashes = _read_hashes(out)
    files, lines = [], []
    for name, content in contents.items():
        digest = text_hash(content)
        path = next(path for path in _beside(out / name) if _is_ours(path, hashes.get(path.name, ()), digest))
        # killed between the two files, both are ours; the one that is there is not written again
        before = [] if not path.exists() else [file_hash(path)]
        if before != [digest]:
            _write_hashes(out, {**hashes, path.name: [*before, digest]})
            write_atomically(content.encode(), path)
        hashes[path.name] = [digest]
        files.append(path)
        if path.name != name:
            lines.append(f'{out / name} is not as mmext wrote it, so it stays; the new one is {path}.')
    if hashes != _read_hashes(out):
        _write_hashes(out, hashes)
    return files, lines


def _beside(path: Path) -> Iterator[Path]:
    """``annotations.json``, ``annotations.new.json``, ``annotations.new2.json`` and so on."""
    yield path
    for number in count(1):
        yield path.with_name(f'{path.stem}.new{number if number > 1 else ""}{path.suffix}')


def _is_ours(path: Path, hashes: Sequence[str], digest: str) -> bool:
    return not path.exists() or file_hash(path) in (*hashes, digest)


def _read_hashes(out: Path) -> dict[str, list[str]]:
    try:
        found = json.loads((out / WRITTEN).read_bytes())
        return {str(name): list(map(str, hashes)) for name, hashes in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):  # then no file is known as ours, and all stay
        return {}


def _write_hashes(out: Path, hashes: Mapping[str, Sequence[str]]) -> None:
    write_atomically((json.dumps(hashes, indent=2, sort_keys=True) + '\n').encode(), out / WRITTEN)


def text_hash(text: str) -> str:
    """SHA-256, in hexadecimal, of a text as it is written."""
    return hashlib.sha256(text.encode()).hexdigest()
