"""YOLO's segmentation labels: a text file an image, a line an object, corners as shares of width and height. No torch."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmext.data.formats import outlines
from mmext.data.formats.content import Annotated, Asked, Content, Faults, ImageFolder, Picture, files_in, read_text
from mmext.errors import InputError, some

YAML = ('.yaml', '.yml')
# Label Studio and older tools list the names here, one a line
NAMES = 'classes.txt'
# folders above the labels in which data.yaml may be: data/labels/train
_PARENTS = 3


def read(path: Path, folder: Path, asked: Asked) -> Content:
    """Read YOLO's labels.

    Args:
        path: data.yaml, or a folder of labels, with data.yaml or classes.txt in it or above it.
        folder: the images. The label file of an image is in ``path``, or where Ultralytics looks: at the image's path with
            ``labels`` in the place of ``images``; or beside it. An image without one has no object, as YOLO has it.

    Raises:
        InputError: all that is wrong with the files, at once.
    """
    source, names = _names(path)
    images, faults = ImageFolder(folder), Faults(path)
    pictures, objects, used, roots = [], [], set(), set()
    for name in images.names:
        file, root = _label_file(path, folder, name)
        picture = images.measure(name, faults)
        if picture is None:
            continue
        pictures.append(picture)
        if file is not None:
            used.add(file)
            roots.add(root)
            objects += _objects(file, picture, names, source, faults)
    if not used:
        raise InputError(
            f'{path}: no label file for any image of {folder}. For images/a.png it is labels/a.txt, or a.txt in {path}.'
        )
    orphans = sorted({file for root in roots for file in files_in(root, ('.txt',)) if _is_label(file)} - used)
    for file in orphans:
        faults.add(f'label files without an image in {folder}. Copy the images there, or move the labels away', file.name)
    faults.raise_all()
    empty = len(pictures) - len({one.file_name for one in objects})
    remarks = [f'{empty} images have no object: no label file, or an empty one.'] if empty else []
    origins = {name: f'class {number} of {source.name}' for number, name in names.items()}
    ordered = [names[number] for number in sorted(names)]
    return Content(path, f'YOLO labels with {source.name}', pictures, objects, ordered, origins, remarks)


def _is_label(file: Path) -> bool:
    return file.name != NAMES and not file.name.lower().startswith('readme')


def _names(path: Path) -> tuple[Path, dict[int, str]]:
    """The file that names the classes, and number to name."""
    if path.is_file():
        document = _yaml(path)
        return path, _names_of(path, document) or _no_names(path, document)
    places = [path, *path.resolve().parents[:_PARENTS]]
    for place in places:
        files = [file for file in sorted(place.iterdir()) if file.suffix in YAML and has_names(file)]
        found = {file: names for file in files if (names := _names_of(file, _yaml(file)))}
        if len(found) > 1:
            raise InputError(
                f'{path}: several files name the classes: {some(found)}. Give the right one in place of {path}.'
            )
        if found:
            return next(iter(found.items()))
        listed = place / NAMES
        if listed.is_file():
            return listed, dict(enumerate(line.strip() for line in read_text(listed).splitlines() if line.strip()))
    raise InputError(
        f'{path}: YOLO labels, and nothing names their classes: no data.yaml with names, and no {NAMES}, in {path} or up to '
        f'{_PARENTS} folders above. Write data.yaml there, such as names: [first, second]'
    )


def has_names(file: Path) -> bool:
    """Whether a YAML file names classes; folders above may have others, with tags that only their own readers know."""
    try:
        return re.search(rb'(?m)^names\s*:', file.read_bytes()) is not None
    except OSError:
        return False


def _yaml(file: Path) -> object:
    import yaml

    try:
        return yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError) as error:
        place = f' in line {mark.line + 1}' if (mark := getattr(error, 'problem_mark', None)) else ''
        raise InputError(f'{file}: not YAML: {str(error).splitlines()[0]}{place}.') from None


def _names_of(file: Path, document: object) -> dict[int, str] | None:
    """Number to name of data.yaml; None where it has no names."""
    names = document.get('names') if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        return None
    if not all(isinstance(key, int) and not isinstance(key, bool) and key >= 0 for key in names):
        raise InputError(f'{file}: names has keys that are no numbers: {some(names)}. Write names: {{0: Fiber, 1: Film}}')
    texts = {number: str(name) for number, name in names.items()}
    count = document.get('nc')
    if isinstance(count, int) and count != len(texts):
        raise InputError(f'{file}: nc is {count}, and names has {len(texts)}: {some(texts.values())}. Correct one of them.')
    if len(set(texts.values())) < len(texts):
        raise InputError(f'{file}: names has a name twice: {some(texts.values())}. Give each class its own.')
    return texts


def _no_names(path: Path, document: object) -> dict:
    keys = f' It has: {some(document)}.' if isinstance(document, dict) and document else ''
    raise InputError(
        f'{path}: no names of classes in it.{keys} Write them in the order of the class numbers, such as '
        'names: [first, second].'
    )


def _label_file(path: Path, folder: Path, name: str) -> tuple[Path | None, Path | None]:
    """Where the labels of an image are, and the folder to which that path is relative."""
    label = Path(name).with_suffix('.txt')
    candidates = [(root / label, root) for root in (path, path / 'labels') if path.is_dir()]
    parts = (folder.resolve() / label).parts
    last = max((i for i, part in enumerate(parts[:-1]) if part == 'images'), default=None)
    if last is not None:  # Ultralytics' rule: the last 'images' of the path becomes 'labels'
        parts = (*parts[:last], 'labels', *parts[last + 1 :])
        root = parts[: max(len(folder.resolve().parts), last + 1)]
        candidates.append((Path(*parts), Path(*root)))
    candidates.append((folder / label, folder))
    return next(((file, root) for file, root in candidates if file.is_file()), (None, None))


def _objects(file: Path, picture: Picture, names: dict[int, str], source: Path, faults: Faults) -> list[Annotated]:
    try:
        lines = read_text(file).splitlines()
    except InputError as error:
        faults.add('label files that cannot be read', str(error).removesuffix('.'))
        return []
    objects = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found = _object(line.split(), picture, names, source, faults, f'{file.name} line {number}')
            objects += [found] if found else []
    return objects


def _object(
    words: Sequence[str], picture: Picture, names: dict[int, str], source: Path, faults: Faults, place: str
) -> Annotated | None:
    """The object of a line: number of its class, then x and y of the corners, 0 to 1."""
    try:
        label, values = float(words[0]), np.array(words[1:], float)
    except ValueError:
        return faults.add('lines that are not numbers alone. Export them again', f'{place}: {" ".join(words)[:40]}')
    if label not in names:
        known = some(f'{number} {name}' for number, name in names.items())
        what = f'objects of a class that {source.name} does not name (it has: {known}). Add its name there'
        return faults.add(what, f'{place}: {words[0]}')
    place = f'{place} ({names[int(label)]})'
    if len(values) == 4:
        return faults.add('lines with a box and no outline. Export as YOLO segmentation, not detection', place)
    if len(values) % 2:
        return faults.add('outlines with an odd number of coordinates. Export them again', f'{place}: {len(values)}')
    if not np.isfinite(values).all():
        return faults.add(outlines.NO_NUMBERS, place)
    corners = values.reshape(-1, 2) * (picture.width, picture.height)
    outline = outlines.polygon(corners, picture, faults, place)
    return outline and Annotated(picture.file_name, names[int(label)], [outline])
