"""Label maps: images whose pixels are numbers of objects, 0 the background. No torch.

What tells the class: the folder that a map is in, a table of values, or the map's name after that of its image.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.data.formats import outlines
from mmext.data.formats.content import (
    Annotated,
    Asked,
    Content,
    Faults,
    ImageFolder,
    Picture,
    any_size,
    check_size,
    files_in,
    read_json,
    read_text,
)
from mmext.data.image_windows import SUFFIXES, TIFF_SUFFIXES
from mmext.errors import InputError, some

# what programs append to the name of an image for its map, which is no class
NO_CLASS = ('cp_masks', 'masks', 'mask', 'labels', 'label', 'seg', 'instances', 'instance', 'annotation', 'gt')
_BETWEEN = '_-. '
_COLUMNS = ('value', 'class')
_LOSSY = ('.jpg', '.jpeg')


@dataclass(frozen=True)
class Table:
    """Classes by value: of all maps, or ``of_image`` by the stem of an image or map."""

    file: Path
    names: Mapping[int, str]
    of_image: Mapping[str, Mapping[int, str]] | None = None


def read(path: Path, folder: Path, asked: Asked) -> Content:
    """Read a folder of label maps (PNG or TIFF of 1 to 32 bits).

    A map belongs to the image of the same name, or of the name with which its own begins: ``a_Fiber.png`` to ``a.tif``. An
    image may have several maps. Each value is an object, of as many parts as it has; where a table gives each value its
    class, each connected region is one (8 neighbours). ``asked.objects`` has either everywhere.

    Args:
        path: the folder: maps in it; or a folder a class, ``Fiber/a.png``. Subfolders that the image folder has too are no
            classes. A CSV (value, class; or image, value, class, of numbered objects) or JSON (``{"1": "Fiber"}``) beside
            the maps is the table.
        folder: the images; those without a map are not annotated, so they are left out. It may be ``path`` itself, where the
            maps have names like ``a_mask.png``.

    Raises:
        InputError: all that is wrong with the files, at once.
    """
    together = path.resolve() == folder.resolve()
    images, faults = ImageFolder(folder, None if together else path), Faults(path)
    table = _table(path)
    maps = [one for one in files_in(path, SUFFIXES, None if together else folder) if not together or is_named_map(one)]
    if not maps:
        raise InputError(f'{path}: no label map in it. They end in {", ".join(SUFFIXES)}.')
    stems = _stems([name for name in images.names if not together or not is_named_map(Path(name))], faults)
    class_folders = _class_folders(path, folder, maps, table)
    by_components = (asked.objects or ('components' if table and not table.of_image else 'values')) == 'components'
    pictures: dict[str, Picture | None] = {}
    objects, told, split, met = [], {}, [0, 0], set()
    for file in maps:
        name = file.relative_to(path).as_posix()
        stem, rest = _image_of(Path(name).with_suffix(''), class_folders, stems)
        if stem is None:
            faults.add(f'label maps without an image in {folder}. Its name must be that with which the map begins', name)
            continue
        if stems[stem] not in pictures:
            pictures[stems[stem]] = images.measure(stems[stem], faults)
        picture = pictures[stems[stem]]
        try:
            values = read_map(file)
        except ValueError as error:
            faults.add('label maps that cannot be read', f'{name}: {error}')
            continue
        if picture is None or not check_size(picture, values.shape[1], values.shape[0], faults, name):
            continue
        by_name = name.partition('/')[0] if class_folders else _class_of_name(rest)
        regions = list(regions_of(values, by_components))
        split[0] += len({value for value, *_ in regions} if by_components else regions)
        split[1] += len(regions) if by_components else sum(_pieces(mask) for _, mask, *_ in regions)
        for value, mask, x, y in regions:
            place = f'{name} value {value}'
            label, origin = by_name or asked.only_class, _origin(by_name, class_folders, path, asked)
            if table:
                key, label = _of_table(table, value, Path(name).stem, stem)
                origin = f'value in {table.file.name}'
                met.add((key, value))
            if label is None:
                faults.add(f'objects of a value that {table.file.name} does not list. Add a row for it, or erase it', place)
                continue
            rle = outlines.mask(mask, x, y, picture, faults, place)
            if rle is not None:
                told[label] = origin
                objects.append(Annotated(picture.file_name, label, rle))
    faults.raise_all()
    used = [picture for picture in pictures.values() if picture is not None]
    remarks = _remarks(len(stems) - len(used), folder, by_components, len(used), *split)
    if table and table.of_image is not None:
        remarks += _unmet(table, met)
    classes = tuple(dict.fromkeys(table.names[value] for value in sorted(table.names))) if table else ()
    return Content(path, f'{len(maps)} label maps', used, objects, classes, told, remarks)


def _remarks(left: int, folder: Path, by_components: bool, images: int, values: int, pieces: int) -> list[str]:
    remarks = [f'{left} images of {folder} have no label map and are left out.'] if left else []
    if by_components:
        remarks.append(f'each connected region is an object: {pieces} of {values} values (--objects values: each value is).')
    elif values <= images < pieces:
        remarks.append(
            f'each value is an object: {values}, of {pieces} separate regions. If each region is one: --objects components'
        )
    else:
        remarks.append('each value is an object, whatever parts it has (--objects components: each connected region is).')
    return remarks


def read_map(path: Path) -> np.ndarray:
    """The values of a label map, (H, W) of an integer type.

    Raises:
        ValueError: it cannot be read, or holds something else; why, in words.
    """
    if path.suffix.lower() in _LOSSY:
        raise ValueError('JPEG changes values. Save maps as PNG or TIFF')
    try:
        values = _tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else _pillow(path)
    except ValueError:
        raise
    except Exception as error:  # Pillow and tifffile raise whatever a damaged file makes of their parsing
        raise ValueError(getattr(error, 'strerror', None) or str(error) or type(error).__name__) from None
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :1] == values[..., :3]).all():
        values = values[..., 0]  # grey, saved as colours
    elif values.ndim == 3 and values.shape[2] == 2:
        values = values[..., 0]  # grey with opacity
    if values.ndim != 2:
        raise ValueError(
            f'shape {values.shape}, where one value a pixel is needed: colours are no values. Save the numbers of objects'
        )
    if values.dtype.kind == 'f':
        if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise ValueError(
                'pixels that are no whole numbers, so probabilities or the like. Save the numbers of the objects'
            )
        values = values.astype(np.int64)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.size and values.min() < 0:
        raise ValueError(f'values from {values.min()}, where 0 is the background and objects have 1 and more')
    return values


def _pillow(path: Path) -> np.ndarray:
    from PIL import Image

    with any_size(), Image.open(path) as opened:
        return np.array(opened)  # of a palette the numbers, not the colours


def _tiff(path: Path) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        shape = [length for length in file.series[0].shape if length > 1]
        if len(file.pages) > 1 or len(shape) > 3:
            raise ValueError(f'a stack of {len(file.pages)} pictures, where one is needed')
        try:
            return file.pages[0].asarray()
        except ValueError as error:
            if 'imagecodecs' not in str(error):
                raise
    return _pillow(path)  # compressed as tifffile alone cannot undo, LZW above all


def regions_of(values: np.ndarray, by_components: bool) -> Iterator[tuple[int, np.ndarray, int, int]]:
    """Objects of a label map in the order of their values: value, mask (h, w) of the window that holds it, and its x and y.

    Args:
        values: (H, W), 0 the background.
        by_components: whether each connected region (8 neighbours) of a value is an object, or each value.
    """
    from scipy import ndimage

    found, number = np.unique(values, return_inverse=True)
    number = number.reshape(values.shape).astype(np.int32) + int(found[0] != 0)
    found = found if found[0] == 0 else [0, *found]
    for place, (value, window) in enumerate(zip(found[1:], ndimage.find_objects(number), strict=True), 1):
        mask = number[window] == place
        rows, columns = window
        if not by_components:
            yield int(value), mask, columns.start, rows.start
            continue
        parts, _ = ndimage.label(mask, np.ones((3, 3)))
        for i, (down, across) in enumerate(ndimage.find_objects(parts), 1):
            yield int(value), parts[down, across] == i, columns.start + across.start, rows.start + down.start


def _pieces(mask: np.ndarray) -> int:
    from scipy import ndimage

    return ndimage.label(mask, np.ones((3, 3)))[1]


def _stems(names: Sequence[str], faults: Faults) -> dict[str, str]:
    """File name of an image without its suffix to the whole."""
    found: dict[str, str] = {}
    for name in names:
        stem = Path(name).with_suffix('').as_posix()
        if stem in found:
            faults.add('images of the same name, so that a map is of both. Rename one', f'{found[stem]} and {name}')
        found[stem] = name
    return found


def _class_folders(path: Path, folder: Path, maps: Sequence[Path], table: Table | None) -> bool:
    """Whether the subfolders of the maps are classes: not where a table tells them, or where the images have the same."""
    tops = {parts[0] if len(parts) > 1 else None for parts in (one.relative_to(path).parts for one in maps)}
    if None in tops and len(tops) > 1 and not any((folder / top).is_dir() for top in tops if top):
        raise InputError(
            f'{path}: label maps in it, and in its subfolders {some(sorted(filter(None, tops)))} too. If these are classes, '
            'put all maps into them.'
        )
    return table is None and None not in tops and not all((folder / top).is_dir() for top in tops)


def _image_of(map_name: Path, class_folders: bool, stems: Mapping[str, str]) -> tuple[str | None, str]:
    """The stem of the image with which the name of a map begins, the longest one, and what is left of the name."""
    name = Path(*map_name.parts[1:]).as_posix() if class_folders else map_name.as_posix()
    for end in range(len(name), 0, -1):
        if (end == len(name) or name[end] in _BETWEEN) and name[:end] in stems:
            return name[:end], name[end:]
    return None, ''


def is_named_map(file: Path) -> bool:
    """Whether a file's name says that it is a label map: ``a_cp_masks.png``."""
    return any(file.stem.lower().endswith(f'{sign}{word}') for word in NO_CLASS for sign in _BETWEEN)


def _class_of_name(rest: str) -> str | None:
    """The class in the end of a map's name: ``_Fiber_02`` is Fiber; ``_cp_masks`` and ``_02`` name none."""
    rest = re.sub(rf'[{re.escape(_BETWEEN)}]*\d*$', '', rest).strip(_BETWEEN)
    for word in NO_CLASS:
        if rest.lower() == word:
            return None
        if rest.lower().endswith(word) and rest[-len(word) - 1] in _BETWEEN:
            return rest[: -len(word)].strip(_BETWEEN) or None
    return rest or None


def _origin(by_name: str | None, class_folders: bool, path: Path, asked: Asked) -> str:
    if class_folders:
        return f'folder in {path}'
    if by_name:
        return 'name of its label maps'
    return '--class-name' if asked.class_name else 'nothing tells a class (--class-name names it)'


def _of_table(table: Table, value: int, map_stem: str, image: str) -> tuple[str | None, str | None]:
    """The image of a table's rows, where it has images, and the class of a value."""
    if table.of_image is None:
        return None, table.names.get(value)
    base = image.rpartition('/')[2]
    key = next((key for key in (image, base, map_stem) if key in table.of_image), None)
    return key, table.of_image.get(key, {}).get(value)


def _unmet(table: Table, met: set[tuple[str | None, int]]) -> list[str]:
    """Rows of a table of objects of which no map has the value."""
    rows = [(image, value) for image, names in table.of_image.items() for value in names]
    left = [f'{image} value {value}' for image, value in rows if (image, value) not in met]
    if not left:
        return []
    return [
        f'{len(left)} of {len(rows)} rows of {table.file.name} have no pixel in a map, and so no object (another lies over '
        f'it, or the row is wrong): {some(left)}'
    ]


def _table(path: Path) -> Table | None:
    """The table beside the maps; None where there is none."""
    files = sorted(one for one in path.iterdir() if one.suffix.lower() in ('.csv', '.json') and one.is_file())
    if not files:
        return None
    if len(files) > 1:
        names = some(file.name for file in files)
        raise InputError(f'{path}: several tables beside the label maps: {names}. Keep the one that names the classes.')
    return read_table(files[0])


def read_table(file: Path) -> Table:
    """A table of values and classes: JSON, or CSV with the columns value, class, and image or not.

    Raises:
        InputError: another content.
    """
    if file.suffix.lower() == '.json':
        document = read_json(file)
        if not isinstance(document, dict) or not document or not all(isinstance(one, str) for one in document.values()):
            raise InputError(f'{file}: not a table of values: it must be an object such as {{"1": "Fiber", "2": "Film"}}.')
        return Table(file, _rows_of(file, [(key, name) for key, name in document.items()]))
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(file), newline='')) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f'{file}: not CSV: {error}.') from None
    heads = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not set(_COLUMNS) <= set(heads):
        heads, body = ['value', 'class'], rows
        if not rows or any(len(row) != 2 for row in rows):
            raise InputError(
                f'{file}: not a table of values: the first line must name the columns value,class or image,value,class. '
                f'It is: {",".join(rows[0]) if rows else "empty"}'
            )
    else:
        body = rows[1:]
        short = [number for number, row in enumerate(body, 2) if len(row) < len(heads)]
        if short:
            raise InputError(f'{file}: rows with too few cells: {some(short)}.')
    value, name = heads.index('value'), heads.index('class')
    if 'image' not in heads:
        return Table(file, _rows_of(file, [(row[value], row[name]) for row in body]))
    of_image: dict[str, list] = {}
    for row in body:
        key = row[heads.index('image')].strip().replace('\\', '/')
        if key.lower().endswith(SUFFIXES):
            key = key.rpartition('.')[0]
        of_image.setdefault(key, []).append((row[value], row[name]))
    return Table(file, {}, {key: _rows_of(file, some_rows) for key, some_rows in of_image.items()})


def _rows_of(file: Path, rows: Sequence[tuple[str, str]]) -> dict[int, str]:
    found: dict[int, str] = {}
    for value, name in rows:
        text = value.strip()
        if not text.isdecimal() or not name.strip():
            raise InputError(f'{file}: value {value!r} with class {name!r}: a whole number and a name are needed.')
        if found.setdefault(int(text), name.strip()) != name.strip():
            raise InputError(f'{file}: value {text} is {found[int(text)]} and {name.strip()}. Give each value one class.')
    found.pop(0, None)  # the background
    return found
