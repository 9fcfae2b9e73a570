"""Which images a command line means, and the name that each one's output has. No torch."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmext.errors import InputError, some

SUFFIXES = ('.tif', '.tiff', '.png', '.jpg', '.jpeg', '.bmp', '.webp', '.ppm', '.pgm')


@dataclass(frozen=True)
class ImageFile:
    """An image: ``path``; ``file_name`` as COCO writes it, relative to the folder that all share; ``name`` of its output:
    the same without the suffix, unless another image differs in the suffix alone."""

    path: Path
    file_name: str
    name: str


def find_images(arguments: Sequence[str | Path], out: Path) -> list[ImageFile]:
    """Images of files, folders and patterns, each once, in the order of the arguments.

    A folder stands for the images in it and in its subfolders, by their suffix, sorted; hidden files and what lies in
    ``out`` are left out. A pattern (``*``, ``?``, ``[]``, ``**``) is one that the shell has left as it is. A file that is
    named is taken whatever its suffix is.

    Raises:
        InputError: something is not there; there is no image.
    """
    found: dict[Path, Path] = {}
    bases, lost = [], []
    for argument in map(str, arguments):
        path = Path(argument)
        if path.is_dir():
            bases.append(path.resolve())
            images = _in_folder(path, out)
        elif path.is_file():
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
    relative = {resolved: Path(os.path.relpath(resolved, root)) for resolved in found}
    file_names = {resolved: path.as_posix().replace('../', '__/') for resolved, path in relative.items()}
    # a disk that does not tell capitals from small letters would write two images into one file
    stems = {resolved: Path(name).with_suffix('').as_posix() for resolved, name in file_names.items()}
    many = Counter(stem.casefold() for stem in stems.values())
    return [
        ImageFile(
            path, file_names[resolved], stems[resolved] if many[stems[resolved].casefold()] == 1 else file_names[resolved]
        )
        for resolved, path in found.items()
    ]
