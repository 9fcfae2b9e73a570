"""Predictions of a validation as they are kept beside a run's log, to be compared with those of another run. No torch."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmext.errors import InputError

SCHEMA_VERSION = 1
# in the folder of a run's logs; which validation each is of
FILES = {'best': 'predictions_best.npz', 'last': 'predictions_last.npz'}


@dataclass(frozen=True)
class Predictions:
    """Detections of a validation, image after image, in the order in which the model gave them.

    ``about``: what they are of, see :func:`pack`; ``corners`` (N, 4) x1, y1, x2, y2 in pixels of the original image,
    ``labels`` (N,), ``scores`` and ``mask_scores`` (N,), ``rles`` of the masks, None where the model has none.
    """

    path: Path
    about: Mapping
    counts: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    mask_scores: np.ndarray
    corners: np.ndarray
    rles: list[dict] | None

    @cached_property
    def boxes(self) -> np.ndarray:
        """(N, 4) as x, y, width, height; the difference is taken in double precision, as MMDetection does."""
        return np.concatenate([self.corners[:, :2], self.corners[:, 2:] - self.corners[:, :2]], 1)

    def ranges(self) -> Iterator[tuple[object, int, int]]:
        """Image id, and first and last + 1 of its detections."""
        ends = self.counts.cumsum().tolist()
        yield from zip(self.about['image_ids'], [0, *ends[:-1]], ends, strict=True)


def pack(images: list[Mapping], about: Mapping) -> bytes:
    """Detections as the bytes of an npz file.

    Args:
        images: for each image its ``image_id``, ``size`` (height, width), ``labels`` (n,), ``scores`` (n,), ``boxes`` (n, 4)
            as corners, and where there are masks ``rles`` (n compressed RLEs) and ``mask_scores``.
        about: what they are of: ``epoch``, ``iteration``, ``begin`` (iterations done before this start), ``classes``,
            ``ann_file``, ``sha256`` of it, ``metrics``.
    """
    record = {
        **about,
        'schema_version': SCHEMA_VERSION,
        'image_ids': [image['image_id'] for image in images],
    }
    arrays = {
        'about': np.frombuffer(json.dumps(record).encode(), np.uint8),
        'sizes': np.array([image['size'] for image in images], np.int32).reshape(-1, 2),
        'counts': np.array([len(image['labels']) for image in images], np.int32),
    }
    kinds = {'labels': np.int32, 'scores': np.float32, 'boxes': np.float32, 'mask_scores': np.float32}
    for name, kind in kinds.items():
        if images and name in images[0]:
            shape = (-1, 4) if name == 'boxes' else -1
            arrays[name] = np.concatenate([np.asarray(image[name], kind).reshape(shape) for image in images])
    if images and 'rles' in images[0]:
        texts = [_as_bytes(rle['counts']) for image in images for rle in image['rles']]
        arrays['rles'] = np.frombuffer(b''.join(texts), np.uint8)
        arrays['rle_lengths'] = np.array([len(text) for text in texts], np.int32)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _as_bytes(counts: bytes | str) -> bytes:
    return counts.encode() if isinstance(counts, str) else counts


def read_predictions(path: str | Path) -> Predictions:
    """Read what :func:`pack` has made.

    Raises:
        InputError: missing, not such a file, of another version, or broken.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays['about'].tobytes())
        if about['schema_version'] != SCHEMA_VERSION:
            raise InputError(
                f'{path}: version {about["schema_version"]}, this mmext reads {SCHEMA_VERSION}. Use the mmext that wrote it.'
            )
        return _unpacked(path, about, arrays)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or error}.') from None
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy raise anything
        raise InputError(
            f'{path}: not a whole file of mmext.PredictionsHook ({type(error).__name__}: {error}). Validate again.'
        ) from None


def _unpacked(path: Path, about: dict, arrays: dict[str, np.ndarray]) -> Predictions:
    counts, total = arrays['counts'], int(arrays['counts'].sum())
    empty = np.zeros(0)
    labels, scores = arrays.get('labels', empty.astype(int)), arrays.get('scores', empty).astype(float)
    corners = arrays.get('boxes', np.zeros((0, 4))).astype(float)
    if (
        not len(about['image_ids']) == len(counts) == len(arrays['sizes'])
        or not len(labels) == len(scores) == len(corners) == total
    ):
        raise ValueError('its arrays do not fit together')
    rles = None
    if 'rles' in arrays:
        text, ends = arrays['rles'].tobytes(), arrays['rle_lengths'].cumsum().tolist()
        if len(ends) != total or (ends[-1] if ends else 0) != len(text):
            raise ValueError('its masks do not fit together')
        sizes = [size for size, count in zip(arrays['sizes'].tolist(), counts.tolist(), strict=True) for _ in range(count)]
        starts = [0, *ends[:-1]] if ends else []
        rles = [{'size': size, 'counts': text[first:last]} for size, first, last in zip(sizes, starts, ends, strict=True)]
    mask_scores = arrays['mask_scores'].astype(float) if 'mask_scores' in arrays else scores
    missing = [name for name in ('epoch', 'iteration', 'begin', 'classes', 'ann_file', 'sha256') if name not in about]
    if missing:
        raise ValueError(f'it does not say {missing[0]}')
    return Predictions(path, about, counts, labels, scores, mask_scores, corners, rles)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
