"""What is wrong with the image files of a COCO file, and which images of two parts are the same. No torch."""

import hashlib
import importlib.util
import io
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.analysis.findings import Finding, first
from mmext.data.coco_file import CocoFile
from mmext.errors import some

# Of 256 bits of a 16x16 pHash. Any two of 500 made images differ by 70 or more, two droplets of different films by 82, empty
# fields under one illumination by 94, fields with three specks inside one dark rim by 40. An image saved again as JPEG at
# quality 30, at half the size, brighter or with noise differs from itself by 32 or less; half of the droplets' frames have
# another of their own film within 36. A dHash takes all fields under one illumination for the same one (5).
NEAR = 36
_HASH_SIDE = 16
_THUMBNAIL = 256  # px; pHash is made from 64x64, and from a large image only via this
# An image of fewer grey values in the range of its pixels than this is flat: its pHash would be that of its noise.
_LEAST_RANGE = 3
# Stock loading keeps the upper 8 of 16 bits, so 16 grey values of 12 bits in 16. Counted are values of more than one pixel
# and one in 100,000: a picture of few objects on black has its grey values in few pixels, a hot pixel is alone.
_FEW_GREY_VALUES, _SHARE_OF_PIXELS = 64, 1e-5
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_COMPARED_AT_ONCE = 2000

_KINDS = {'L': 'grey', '1': 'black and white', 'P': 'with a palette', 'CMYK': 'CMYK'}
_KINDS |= dict.fromkeys(('I', 'I;16', 'I;16B', 'F'), 'grey') | dict.fromkeys(
    ('LA', 'PA', 'RGBA', 'RGBa', 'La'), 'with alpha'
)


@dataclass(frozen=True)
class ImageFacts:
    """One readable image: ``size`` (width, height) as MMDetection loads it, ``digest`` of its pixels, ``phash`` of its look:
    32 bytes, None for a flat image or without imagehash."""

    size: tuple[int, int]
    digest: bytes
    phash: bytes | None


@dataclass(frozen=True)
class _Loading:
    """What a pipeline's loading does: ``turns`` a picture as EXIF says, None where that is not known; ``opencv`` reads it;
    ``eight_bits`` are left of it."""

    turns: bool | None = True
    opencv: bool = True
    eight_bits: bool = True


def _loading_of(transform: Mapping | None) -> _Loading:
    if transform is None:
        return _Loading()
    kind = transform.get('type')
    name = kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')
    backend, colour = transform.get('imdecode_backend') or 'cv2', transform.get('color_type', 'color')
    if name != 'LoadImageFromFile' or backend not in ('cv2', 'pillow'):
        return _Loading(None, False, False)
    opencv = backend == 'cv2'
    return _Loading(colour in ('color', 'grayscale'), opencv, opencv and colour != 'unchanged')


class _Cases:
    """Findings in the making: a code to the images that have it, each in words."""

    def __init__(self):
        self.of: dict[str, list[str]] = {}

    def add(self, code: str, image: Mapping, words: str) -> None:
        self.of.setdefault(code, []).append(f'image {image["id"]} ({image["file_name"]}): {words}')


def check_images(
    coco: CocoFile,
    folder: str | Path,
    part: str,
    progress: Callable[[int, int], None] | None = None,
    loading: Mapping | None = None,
) -> tuple[list[Finding], dict[str, ImageFacts]]:
    """Read every image once, and say what MMDetection's ``LoadImageFromFile`` makes of it.

    Args:
        coco: of which the images are used; files that are not there are passed over.
        folder: to which ``file_name`` is relative.
        part: train or val.
        progress: called with (done, all) images.
        loading: config of the transform that loads the images; None for ``LoadImageFromFile`` as it is by default (OpenCV,
            in colour, EXIF obeyed). Of what another transform makes of depth, colours and EXIF nothing is said.

    Returns:
        The findings, and facts by file name for :func:`check_same_images`.
    """
    cases, facts, kinds, how = _Cases(), {}, Counter(), _loading_of(loading)
    images = list({image['file_name']: image for image in coco.images}.values())
    hashes = importlib.util.find_spec('imagehash') is not None
    for number, image in enumerate(images):
        found = _read(image, Path(folder), cases, kinds, hashes, how)
        if found:
            facts[image['file_name']] = found
        if progress:
            progress(number + 1, len(images))
    findings = [_finding(code, cases.of[code], len(images), part) for code in _TEXTS if code in cases.of]
    return findings + (_kinds_found(kinds, part) if how.eight_bits else []) + _same_within(facts, part), facts


def check_same_images(train: Mapping[str, ImageFacts], val: Mapping[str, ImageFacts]) -> list[Finding]:
    """Images that are in both parts, by their pixels and by their look.

    Args:
        train: facts by file name, as :func:`check_images` gives them; of several data sets put together.
        val: likewise.
    """
    of_digest = {fact.digest: name for name, fact in reversed(train.items())}
    same = {name: of_digest[fact.digest] for name, fact in val.items() if fact.digest in of_digest}
    findings = []
    if same:
        findings.append(
            Finding(
                'image-in-train-and-val-by-content',
                'severe',
                f'{len(same)} of {len(val)} validation images are in the training data, to the pixel: validation measures '
                'what was learnt by heart.',
                len(same),
                first(f'val {name} = train {other}' for name, other in same.items()),
                'take them out of one of the two parts',
                'val',
            )
        )
    if importlib.util.find_spec('imagehash') is None:
        text = 'near duplicates between train and val were not looked for: the package imagehash is not installed.'
        findings.append(Finding('near-duplicates-not-checked', 'information', text, remedy="pip install 'mmext[check]'"))
        return findings
    near = {name: found for name, found in nearest(train, val).items() if found[1] <= NEAR and name not in same}
    if near:
        closest = sorted(near.items(), key=lambda item: (item[1][1], item[0]))
        findings.append(
            Finding(
                'near-duplicate-images',
                'warning',
                f'{len(near)} of {len(val)} validation images look like a training image (pHash: {NEAR} or fewer of 256 '
                'bits differ), as neighbouring frames of a film do: validation then overrates the model.',
                len(near),
                first(f'val {name} ~ train {other}: {bits} bits' for name, (other, bits) in closest),
                'split by film, specimen or slide: all images of one go into the same part',
                'val',
            )
        )
    return findings


def nearest(train: Mapping[str, ImageFacts], val: Mapping[str, ImageFacts]) -> dict[str, tuple[str, int]]:
    """For each image of ``val`` with a pHash: the image of ``train`` with the nearest one, and the bits that differ."""
    names, others = ([name for name, fact in part.items() if fact.phash] for part in (val, train))
    if not names or not others:
        return {}
    signs = {fact: _signs(part, chosen) for fact, part, chosen in (('val', val, names), ('train', train, others))}
    found = {}
    for start in range(0, len(names), _COMPARED_AT_ONCE):
        # of two vectors of signs the product counts the equal bits minus the others
        product = signs['val'][start : start + _COMPARED_AT_ONCE] @ signs['train'].T
        for name, best, value in zip(names[start:], product.argmax(1), product.max(1), strict=False):
            found[name] = others[best], round((_HASH_SIDE**2 - float(value)) / 2)
    return found


def _signs(part: Mapping[str, ImageFacts], names: list[str]) -> np.ndarray:
    bits = np.unpackbits(
        np.frombuffer(b''.join(part[name].phash for name in names), np.uint8).reshape(len(names), -1), axis=1
    )
    return bits.astype(np.float32) * 2 - 1


def _read(image: Mapping, folder: Path, cases: _Cases, kinds: Counter, hashes: bool, how: _Loading) -> ImageFacts | None:
    """Read one image and put what is wrong with it to the cases."""
    import cv2

    try:
        content = (folder / image['file_name']).read_bytes()
    except FileNotFoundError:
        return None  # the file checks name it
    except (OSError, ValueError) as error:  # a folder, no permission; a file name with a null character
        return cases.add('image-unreadable', image, getattr(error, 'strerror', None) or str(error))
    if not content:
        return cases.add('image-empty-file', image, '0 bytes')
    # the depth of the file, and turned as EXIF says: cv2.IMREAD_COLOR, which stock uses, keeps 8 bits
    picture = _decode(content, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    header = _header(content)
    broken = _why_broken(content, picture is not None, how.opencv)
    if broken:
        return cases.add('image-unreadable', image, broken)
    if picture is None:
        return None  # for another loader than OpenCV
    kinds[_KINDS.get(header[0], '')] += 1
    size = picture.shape[1], picture.shape[0]
    size = _check_size(image, content, size, header, how.turns, cases)
    if picture.dtype != np.uint8 and how.eight_bits:
        loaded = _decode(content, cv2.IMREAD_COLOR)
        if loaded is None:
            return cases.add('image-unreadable', image, f'pixels of type {picture.dtype}, which stock loading cannot read')
        _check_depth(image, picture, loaded, cases)
    digest = hashlib.sha1(repr((picture.shape, picture.dtype.str)).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(picture).data)
    return ImageFacts(size, digest.digest(), _phash(picture) if hashes else None)


def _decode(content: bytes, flags: int) -> np.ndarray | None:
    import cv2

    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV takes
        return None


def _header(content: bytes) -> tuple[str, tuple[int, int] | None, int]:
    """Pillow's mode, size (width, height) before EXIF's turn, and EXIF's orientation; '', None, 1 if it cannot read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(content)) as opened:
                return opened.mode, opened.size, opened.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises whatever its plug-ins raise on a broken file
        return '', None, 1


def _why_broken(content: bytes, decoded: bool, opencv: bool = True) -> str | None:
    """Why an image cannot be used, in words; None when it can. A loader that is not ``opencv`` may know other formats.

    OpenCV 4 gives a JPEG that was cut off with grey in the place of what is missing; OpenCV 5 refuses it. So a JPEG
    without its end marker is read with Pillow, which refuses it.
    """
    from PIL import Image

    without_end = content.startswith(b'\xff\xd8') and b'\xff\xd9' not in content[-64:]
    if decoded and not without_end:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(content)) as opened:
                opened.load()
    except Image.UnidentifiedImageError:
        return None if decoded or not opencv else f'no image that OpenCV or Pillow knows; it begins with {content[:8]!r}'
    except OSError as error:
        return f'truncated or damaged: {error}'
    except Exception as error:
        return None if decoded or not opencv else f'damaged: {error}'
    return None if decoded or not opencv else 'OpenCV cannot read it, Pillow can: save it again as PNG'


def _check_size(
    image: Mapping, content: bytes, size: tuple[int, int], header: tuple, turns: bool | None, cases: _Cases
) -> tuple[int, int]:
    """Hold the size in the JSON against the file's, EXIF's turn included; the size as the pipeline loads it."""
    import cv2

    _, stored, orientation = header
    given = int(image['width']), int(image['height'])
    words = f'{_by(given)} in the JSON, {_by(size)} as loaded'
    if orientation not in range(2, 9):
        if given != size:
            cases.add('image-size-not-file', image, words)
        return size
    unturned = _decode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    turned = _decode(content, cv2.IMREAD_COLOR)
    applied = turned is not None and unturned is not None and not np.array_equal(turned, unturned)
    loaded = stored if turns is False and applied else size
    words = f'{_by(given)} in the JSON, {_by(loaded)} as loaded, {_by(stored)} in the file, EXIF orientation {orientation}'
    exchanged = orientation in _TURNED and stored != stored[::-1]
    if given not in (size, stored):
        cases.add('image-size-not-file', image, words)
    elif not applied:  # a TIFF, or an image that is its own mirror image
        if given != size:
            cases.add('image-size-not-file', image, words)
    elif turns and not exchanged:
        cases.add('exif-rotation-unclear', image, words)
    elif turns:
        cases.add('exif-rotation-followed' if given == size else 'exif-rotation', image, words)
    elif turns is False and exchanged and given == size:
        cases.add('exif-rotation-ignored', image, words)
    return loaded


def _check_depth(image: Mapping, picture: np.ndarray, loaded: np.ndarray, cases: _Cases) -> None:
    """Count the grey values that stock loading leaves of more than 8 bits."""
    least = max(1, _SHARE_OF_PIXELS * loaded[..., 0].size)
    left = max(int((np.bincount(loaded[..., colour].ravel()) > least).sum()) for colour in range(3))
    words = f'{picture.dtype}, values {picture.min()} to {picture.max()}, loaded as {left} grey values'
    cases.add('bit-depth-lost' if left < _FEW_GREY_VALUES else 'bit-depth-reduced', image, words)


def _phash(picture: np.ndarray) -> bytes | None:
    """pHash of 16x16 bits, 32 bytes; None for a flat image."""
    import cv2
    import imagehash
    from PIL import Image

    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if picture.ndim == 3 else picture
    height, width = grey.shape
    if max(height, width) > _THUMBNAIL:
        grey = cv2.resize(grey, (min(width, _THUMBNAIL), min(height, _THUMBNAIL)), interpolation=cv2.INTER_AREA)
    low, high = int(grey.min()), int(grey.max())
    if high - low < _LEAST_RANGE:
        return None
    if grey.dtype != np.uint8:  # pHash does not depend on brightness and contrast
        grey = ((grey.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
    return np.packbits(imagehash.phash(Image.fromarray(grey), hash_size=_HASH_SIDE).hash).tobytes()


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


# code: severity, text after "N of M images", remedy; in the order of the report
_TEXTS = {
    'image-empty-file': (
        'severe',
        'have no content: the training stops when it reads one.',
        'copy or export them again',
    ),
    'image-unreadable': (
        'severe',
        'cannot be read: the training stops when it reads one, or trains on a part of the picture.',
        'copy or export them again, or take them out of the annotation file',
    ),
    'image-size-not-file': (
        'severe',
        'have another size than their annotation file says: the masks lie beside the objects, and the evaluation fails.',
        'export the annotations for these very files, or bring the files back to the size that was annotated',
    ),
    'exif-rotation': (
        'severe',
        'are turned by an EXIF tag, and their annotations are for the unturned picture: MMDetection turns the picture '
        'alone.',
        "dict(type='LoadImageFromFile', color_type='color_ignore_orientation') in both pipelines, or remove the tag",
    ),
    'exif-rotation-ignored': (
        'severe',
        'are turned by an EXIF tag, and their annotations are for the turned picture: the color_type of this pipeline '
        'leaves the picture unturned.',
        "dict(type='LoadImageFromFile', color_type='color') in both pipelines",
    ),
    'exif-rotation-unclear': (
        'warning',
        'are turned or mirrored by an EXIF tag, which MMDetection obeys; the size does not tell whether the annotations are '
        'for the turned picture.',
        'look at them with --show; if the outlines lie elsewhere, '
        "dict(type='LoadImageFromFile', color_type='color_ignore_orientation') in both pipelines, or remove the tag",
    ),
    'bit-depth-lost': (
        'severe',
        f'have more than 8 bits, of which stock loading keeps the upper 8: under {_FEW_GREY_VALUES} grey values are left.',
        "dict(type='mmext.LoadMicroscopeImage', limits=(LOW, HIGH)) in the place of LoadImageFromFile in both pipelines; "
        '`mmext init` writes it with the limits of your images',
    ),
    'exif-rotation-followed': (
        'information',
        'are turned by an EXIF tag, and their annotations are for the turned picture, as MMDetection loads it.',
        None,
    ),
    'bit-depth-reduced': (
        'information',
        'have more than 8 bits; stock loading keeps the upper 8.',
        None,
    ),
}


def _finding(code: str, cases: list[str], images: int, part: str) -> Finding:
    severity, text, remedy = _TEXTS[code]
    return Finding(code, severity, f'{len(cases)} of {images} images {text}', len(cases), first(cases), remedy, part)


def _kinds_found(kinds: Counter, part: str) -> list[Finding]:
    named = {kind: count for kind, count in kinds.items() if kind}
    if not named:
        return []
    words = some(f'{count} {kind}' for kind, count in sorted(named.items()))
    text = f'of {kinds.total()} images {words}; stock loading makes three 8-bit colours of each and drops alpha.'
    return [Finding('image-kinds', 'information', text, sum(named.values()), where=part)]


def _same_within(facts: Mapping[str, ImageFacts], part: str) -> list[Finding]:
    groups: dict[bytes, list[str]] = {}
    for name, fact in facts.items():
        groups.setdefault(fact.digest, []).append(name)
    twice = [names for names in groups.values() if len(names) > 1]
    if not twice:
        return []
    surplus = sum(len(names) - 1 for names in twice)
    return [
        Finding(
            'same-image-twice',
            'warning',
            f'{surplus} of {len(facts)} images have the same pixels as another one; if their annotations differ, one image '
            'teaches what the other one denies.',
            surplus,
            first(' = '.join(names[:3]) for names in twice),
            'keep one of each, with all its annotations',
            part,
        )
    ]
