"""What the annotations of a tool say, whatever the tool, and the COCO document that they become. No torch."""

import contextlib
import json
import math
import numbers
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmext.analysis.mask_window import to_rle
from mmext.data.coco_file import annotation_bytes
from mmext.data.image_windows import SUFFIXES, TIFF_SUFFIXES
from mmext.errors import InputError, did_you_mean, raise_all, some

# orientations of EXIF and TIFF that exchange width and height, as OpenCV loads the image
_TURNED = (5, 6, 7, 8)
# for the nearest name; comparing takes some 50 µs each
_NAMES_COMPARED = 2000
_RLE = ('size', 'counts')
_DIGITS = re.compile(r'\d+')


@dataclass(frozen=True)
class Asked:
    """What a person says of annotation files where they do not tell themselves; None takes what is found.

    ``format``: its name; ``objects``: of a label map, 'values' (each value is an object) or 'components' (each connected
    region of a value is); ``class_attribute``: the region attribute of VIA that is the class; ``class_name``: the class
    where files name none.
    """

    format: str | None = None
    objects: str | None = None
    class_attribute: str | None = None
    class_name: str | None = None

    @property
    def only_class(self) -> str:
        return self.class_name or 'object'


@dataclass(frozen=True)
class Picture:
    """An image: ``file_name`` relative to the image folder, with slashes; ``width`` and ``height``: px, as it is loaded."""

    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class Annotated:
    """An object: the ``file_name`` of its image, its class, and COCO's ``segmentation`` (polygons, or a compressed RLE)."""

    file_name: str
    name: str
    segmentation: list | dict


@dataclass(frozen=True)
class Content:
    """What the annotations at ``path`` say.

    ``kind``: what the files are, in words; ``classes``: those that the files list, in their order, used or not;
    ``origins``: class to the words that say what told it; ``remarks``: lines for the person.
    """

    path: Path
    kind: str
    pictures: Sequence[Picture]
    objects: Sequence[Annotated]
    classes: Sequence[str] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()


class Faults:
    """What is wrong with files, collected by kind, so that a person is told everything at once."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[str, list[str]] = {}

    def add(self, what: str, place: str) -> None:
        """Note a fault: ``what`` names its kind in the plural and may end in a sentence of what to do, after a full stop."""
        self._places.setdefault(what, []).append(place)

    def raise_all(self) -> None:
        """Raise one InputError that names every kind with its first places; do nothing when there is none."""
        mistakes = []
        for what, places in self._places.items():
            kind, _, remedy = what.partition('. ')
            mistakes.append(f'{self.path}: {len(places)} {kind}: {some(places)}.{f" {remedy}" if remedy else ""}')
        raise_all(mistakes)


def classes_of(contents: Sequence[Content]) -> tuple[str, ...]:
    """Class names of several parts together: those that files list, in their order, then the others by name."""
    listed = dict.fromkeys(name for content in contents for name in content.classes)
    found = {one.name for content in contents for one in content.objects}
    return (*listed, *sorted(found - set(listed)))


def check_names(content: Content) -> None:
    """Refuse names of classes and images that are no text that can be written: half a character of UTF-16, broken bytes.

    Raises:
        InputError: there are such names.
    """
    faults = Faults(content.path)
    for name in (*classes_of([content]), *(picture.file_name for picture in content.pictures)):
        try:
            name.encode()
        except UnicodeEncodeError:
            faults.add('names of classes or images that are not whole text. Rename them', ascii(name))
    faults.raise_all()


def class_lines(content: Content) -> list[str]:
    """A line a class: what told it, and how many objects of it there are."""
    counts = Counter(one.name for one in content.objects)
    images = Counter(name for name, _ in {(one.name, one.file_name) for one in content.objects})
    return [
        f'    {name}: {content.origins.get(name, "listed in the file")}: {counts[name]} objects in {images[name]} images'
        for name in classes_of([content])
    ]


def to_coco(content: Content, classes: Sequence[str]) -> dict:
    """The COCO document of annotations, the same for the same files: ids are numbers from 1 in the order of the file names.

    Args:
        classes: of the data set, in the order of the categories.
    """
    from pycocotools import mask as coco_mask

    pictures = sorted(content.pictures, key=lambda picture: picture.file_name)
    number = {picture.file_name: i for i, picture in enumerate(pictures, 1)}
    category = {name: i for i, name in enumerate(classes, 1)}
    annotations = []
    for one in sorted(content.objects, key=lambda one: number[one.file_name]):  # stable: the file's order in each image
        picture = pictures[number[one.file_name] - 1]
        drawn = to_rle(one.segmentation, picture.height, picture.width)
        annotations.append(
            {
                'id': len(annotations) + 1,
                'image_id': number[one.file_name],
                'category_id': category[one.name],
                'segmentation': one.segmentation,
                'bbox': _box(one.segmentation, drawn),
                'area': int(coco_mask.area(drawn)),
                'iscrowd': 0,
            }
        )
    return {
        'images': [
            {'id': i, 'file_name': one.file_name, 'width': one.width, 'height': one.height}
            for i, one in enumerate(pictures, 1)
        ],
        'annotations': annotations,
        'categories': [{'id': i, 'name': name} for name, i in category.items()],
    }


def _box(segmentation: list | dict, drawn: dict) -> list[float]:
    """[x, y, width, height] of the outline's extremes, px."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        return [int(value) for value in coco_mask.toBbox(drawn)]
    xs, ys = ([value for polygon in segmentation for value in polygon[axis::2]] for axis in (0, 1))
    return [round(value, 3) for value in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]


def read_json(path: Path) -> object:
    """A JSON file's value.

    Raises:
        InputError: missing, not readable, cut off, not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what, unended, _ = error.msg.partition(' starting at')  # text without an end lasts to that of the file
        is_cut = bool(unended) or error.pos >= len(text) - 1
        cut = ' The file ends there: it seems cut off; copy or export it again.' if is_cut else ''
        place = f'{"from" if unended else "in"} line {error.lineno}, column {error.colno}{" on" if unended else ""}'
        raise InputError(f'{path}: not JSON: {what} {place}.{cut}') from None
    except (RecursionError, ValueError) as error:  # lists nested thousands deep, a number of too many digits
        raise InputError(f'{path}: not readable JSON: {error}.') from None


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        InputError: missing, not readable, no UTF-8.
    """
    try:
        return annotation_bytes(path).decode('utf-8-sig')
    except UnicodeDecodeError:
        raise InputError(f'{path}: not a text file in UTF-8. Export it again.') from None


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


class ImageFolder:
    """The images of a folder and its subfolders, by name and by what annotation files call them."""

    def __init__(self, folder: Path, without: Path | None = None):
        """
        Args:
            folder: where the images are.
            without: a folder in it whose files are no images, such as one of label maps.

        Raises:
            InputError: there is no such folder, or no image in it.
        """
        if not folder.is_dir():
            raise InputError(f'{folder}: there is no such image folder.')
        self.folder = folder
        self.names = [one.relative_to(folder).as_posix() for one in files_in(folder, SUFFIXES, without)]
        if not self.names:
            raise InputError(f'{folder}: no image in it. Images end in {", ".join(SUFFIXES)}.')
        self._whole = set(self.names)
        self._bases: dict[str, list[str]] = {}
        for name in self.names:
            self._bases.setdefault(name.rpartition('/')[2], []).append(name)

    def find(self, given: str, faults: Faults, place: str, *others: str) -> Picture | None:
        """The image that an annotation file calls ``given``: at one of ``others``, at that path in the folder, or else the
        only one of that base name. None after a fault has been noted."""
        given = given.replace('\\', '/')
        base = given.rpartition('/')[2]
        same = self._bases.get(base, [])
        name = next((one for one in (*others, given) if one in self._whole), same[0] if len(same) == 1 else None)
        if name is not None:
            return self.measure(name, faults)
        if same:
            faults.add(f'images that are in several folders of {self.folder}', f'{place}: {given} may be {some(same, 2)}')
            return None
        hint = self._hint(base)
        what = f'images that are not in {self.folder}. Copy them there, or name the folder that has them'
        faults.add(what, f'{place}: {given}{f" ({hint})" if hint else ""}')
        return None

    def _hint(self, base: str) -> str:
        """Which image may be meant: of another suffix, or of a similar name; another number is another image."""
        stem = base.rpartition('.')[0]
        same = [name for name in self._bases if stem and name.rpartition('.')[0] == stem]
        digits = _DIGITS.findall(stem)
        near = [name for name in list(self._bases)[:_NAMES_COMPARED] if _DIGITS.findall(name.rpartition('.')[0]) == digits]
        return did_you_mean(base, same[:1] or near).strip()

    def measure(self, name: str, faults: Faults) -> Picture | None:
        """An image with its size; None after a fault has been noted."""
        try:
            width, height = image_size(self.folder / name)
        except ValueError as error:
            faults.add('images that cannot be read. Copy or export them again', f'{name}: {error}')
            return None
        return Picture(name, width, height)


def files_in(folder: Path, suffixes: Sequence[str], without: Path | None = None) -> list[Path]:
    """Files of a folder and its subfolders with one of the suffixes, sorted; no hidden ones, and none in ``without``."""
    inner = without and without.resolve()
    left_out = inner.relative_to(folder.resolve()) if inner and inner.is_relative_to(folder.resolve()) else None
    found = []
    for path in folder.rglob('*'):
        name = path.relative_to(folder)
        if path.suffix.lower() not in suffixes or any(part.startswith('.') for part in name.parts):
            continue
        if path.is_file() and not (left_out is not None and name.is_relative_to(left_out)):
            found.append(path)
    return sorted(found)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, px, as OpenCV loads it: turned as EXIF or TIFF says.

    Raises:
        ValueError: no image that can be read; why, in words.
    """
    try:
        if path.suffix.lower() in TIFF_SUFFIXES:
            import tifffile

            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                width, height = page.imagewidth, page.imagelength
                orientation = int(page.tags.valueof('Orientation', default=1))
        else:
            from PIL import Image

            with any_size(), Image.open(path) as opened:
                width, height = opened.size
                orientation = opened.getexif().get(0x0112, 1)
    except Exception as error:  # Pillow and tifffile raise whatever a damaged file makes of their parsing
        raise ValueError(getattr(error, 'strerror', None) or str(error) or type(error).__name__) from None
    return (height, width) if orientation in _TURNED else (width, height)


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """Let Pillow open images of any number of pixels: it takes large ones for an attack."""
    from PIL import Image

    usual = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def check_size(picture: Picture, width: object, height: object, faults: Faults, place: str) -> bool:
    """Whether an annotation file's size of an image, where it has one, is the image's; notes a fault where it is not."""
    if (width, height) in ((None, None), (picture.width, picture.height)):
        return True
    faults.add(
        'images of another size than was annotated. Export the annotations for these very files',
        f'{place}: {width}x{height} annotated, {picture.file_name} has {picture.width}x{picture.height}',
    )
    return False
