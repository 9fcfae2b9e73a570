"""Which images a command line means, and the name that each one's output has. No torch."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mmext.data.image_windows import SUFFIXES
from mmext.errors import InputError, some

_CHECKPOINTS = ('.pth', '.pt', '.ckpt')


@dataclass(frozen=True)
class ImageFile:
    """An image: ``path``; ``file_name`` as COCO writes it, relative to the folder that all share; ``name`` of its output:
    the same without the suffix, unless another image would have that name too; no two have one, in capitals or not."""

    path: Path
    file_name: str
    name: str


def find_images(arguments: Sequence[str | Path], out: Path) -> list[ImageFile]:
    """Images of files, folders and patterns, each once, in the order of the arguments.

    A folder stands for the images in it and in its subfolders, by their suffix, sorted; hidden files and what lies in
    ``out`` are left out. A pattern (``*``, ``?``, ``[]``, ``**``) is one that the shell has left as it is. A file that is
    named is taken whatever its suffix is.

    Raises:
        InputError: something is not there, or is a checkpoint; there is no image.
    """
    found: dict[Path, Path] = {}
    bases, lost = [], []
    for argument in map(str, arguments):
        path = Path(argument)
        if path.is_dir():
            bases.append(path.resolve())
            images = _in_folder(path, out)
        elif path.is_file():
            if path.suffix.lower() in _CHECKPOINTS:
                # best_*.pth may fit two files, of which the shell makes two words
                raise InputError(f'{argument}: a checkpoint among the images. One is wanted, right after CONFIG.')
            images = [path]
        else:
            # Path.glob takes no absolute pattern
            fitting = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
            images = [one for one in map(Path, fitting) if _is_image(one, out)]
            if not images:
                lost.append(argument)
        if not path.is_dir():
            bases += [one.resolve().parent for one in images]
        for one in images:
            found.setdefault(one.resolve(), one)
    if lost:
        raise InputError(f'{some(lost)}: there is no such file or folder, and no image fits it as a pattern.')
    if not found:
        raise InputError(f'{some(arguments)}: no image in it. Images end in {", ".join(SUFFIXES)}.')
    try:
        root = Path(os.path.commonpath(bases))
    except ValueError:  # on several drives of Windows
        root = Path(found[next(iter(found))]).parent
    return _named(found, root)


def _in_folder(folder: Path, out: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if _is_image(path, out) and not _hidden(path.relative_to(folder)))


def _is_image(path: Path, out: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and out.resolve() not in path.resolve().parents


def _hidden(path: Path) -> bool:
    return any(part.startswith('.') for part in path.parts)


def _named(found: dict[Path, Path], root: Path) -> list[ImageFile]:
    # a link that leads out of the folder has a name of its own
    parts = {resolved: Path(os.path.relpath(resolved, root)).parts for resolved in found}
    up = '__'
    while any(up in one for one in parts.values()):
        up += '_'
    file_names = {resolved: '/'.join(up if part == '..' else part for part in one) for resolved, one in parts.items()}
    names = dict(zip(file_names, _unique(list(file_names.values())), strict=True))
    return [ImageFile(path, file_names[resolved], names[resolved]) for resolved, path in found.items()]


def _unique(file_names: Sequence[str]) -> list[str]:
    """A name for each: without the suffix, or with it where others have that name, or else with a number.

    A disk that does not tell capitals from small letters would write two images into one file, so that they tell no names
    apart. Which name a file has depends on the others, and not on their order.
    """
    names = [Path(name).with_suffix('').as_posix() for name in file_names]
    while True:
        many = Counter(name.casefold() for name in names)
        # a.png beside a.tif takes the name that a.png.tif has had, so it is looked at again
        short = [i for i, name in enumerate(names) if many[name.casefold()] > 1 and name != file_names[i]]
        if not short:
            break
        for i in short:
            names[i] = file_names[i]
    taken = set(many)
    first = set()
    for i in sorted(range(len(names)), key=lambda i: file_names[i]):
        if names[i].casefold() in first:
            names[i] = next(name for number in count(2) if (name := f'{file_names[i]}~{number}').casefold() not in taken)
        taken.add(names[i].casefold())
        first.add(names[i].casefold())
    return names
