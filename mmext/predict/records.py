"""What was found on each image, kept on the disk, so that a start goes on where the one before ended. No torch.

Folder ``out``: ``settings.json``, what the predictions depend on; ``records/NAME.json``, one an image, written last of all
that belongs to it.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmext.atomic_file import write_atomically
from mmext.errors import InputError
from mmext.predict.image_files import ImageFile
from mmext.predict.instances import Instances

SCHEMA_VERSION = 1
SETTINGS, RECORDS = 'settings.json', 'records'
# of settings.json: what only tells where they come from
_ONLY_SHOWN = ('config', 'checkpoint')


def to_record(image: ImageFile, instances: Instances) -> bytes:
    """The instances of an image as JSON; single-precision numbers come back to the last bit."""
    stat = image.path.stat()
    record = {
        'schema_version': SCHEMA_VERSION,
        'image': image.file_name,
        'path': str(image.path.absolute()),
        'bytes': stat.st_size,
        'modified_ns': stat.st_mtime_ns,
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
        stat = image.path.stat()
        if (record['schema_version'], record['path'], record['bytes'], record['modified_ns']) != (
            SCHEMA_VERSION,
            str(image.path.absolute()),
            stat.st_size,
            stat.st_mtime_ns,
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
    except (OSError, ValueError, KeyError, TypeError):  # not there, or somebody has edited it: predicted again
        return None


def record_path(out: Path, image: ImageFile) -> Path:
    """Where the record of an image lies."""
    return out / RECORDS / f'{image.name}.json'


def keep_settings(out: Path, settings: Mapping, force: bool, folders: tuple[str, ...]) -> None:
    """Write what the predictions depend on, or hold it against what an earlier start has written.

    Args:
        out: made when it is not there.
        settings: JSON; where they differ from an earlier start's, what is done already is no good.
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
        if differ and not force:
            words = '; '.join(f'{key.replace("_", " ")} was {before.get(key)}, now {now.get(key)}' for key in differ)
            raise InputError(
                f'--out: {out} has predictions of an earlier start with other settings: {words}. Give another folder, or '
                '--force to start anew.'
            )
        if force:
            for folder in (RECORDS, *folders):
                if (out / folder).is_dir():
                    shutil.rmtree(out / folder)
        elif not differ:
            return
    write_atomically((json.dumps(settings, indent=2) + '\n').encode(), file)


def text_hash(text: str | bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
