"""Which runs lie in folders: a run is the starts of a work_dir that go on from each other. No torch."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmext.analysis.runs import LOG, is_folder, position, training_line

# how MMEngine names the folder of a start
_STAMP = re.compile(r'\d{8}_\d{6}')
# folders below the given one in which runs are looked for
_DEPTH = 4


@dataclass(frozen=True)
class Place:
    """A run on the disk: its work_dir, and in it the folders of its starts, oldest first.

    ``idle``: starts of the work_dir that have logged no training step, when there are others; ``problem``: why there is no
    run.
    """

    work_dir: Path
    starts: tuple[Path, ...] = ()
    name: str = ''
    problem: str | None = None
    idle: tuple[Path, ...] = ()


def find_runs(folders: Iterable[str | Path]) -> list[Place]:
    """The runs in work_dirs, in folders of work_dirs and in folders of single starts, each once.

    Resumed starts are one run; a start from the beginning is a run of its own, with the time of its start in its name. What
    holds no run, or cannot be opened, is an entry with its problem.
    """
    found: dict[tuple, Place] = {}
    for folder in map(Path, folders):
        for place in _runs_in(folder):
            found.setdefault((_resolved(place.work_dir), *(start.name for start in place.starts)), place)
    return _named(list(found.values()))


def _runs_in(folder: Path) -> Iterator[Place]:
    if not is_folder(folder):
        yield Place(folder, problem='it is a file, no folder' if _is_there(folder) else 'there is no such folder')
    elif is_folder(folder / LOG.parent) or (_STAMP.fullmatch(folder.name) and not _starts(folder)[0]):
        yield Place(folder.parent, (folder,))
    else:
        runs = list(_search(folder, _DEPTH))
        yield from runs or [Place(folder, problem=f'no run in it: there is no */{LOG}')]


def _search(folder: Path, depth: int) -> Iterator[Place]:
    starts, others, problem = _starts(folder)
    if problem:
        yield Place(folder, problem=problem)
    elif starts:  # what else is in a work_dir, such as its tests, are no runs
        runs = joined(starts)
        idle = tuple(start for start in starts if not any(start in run for run in runs))
        yield from (Place(folder, tuple(run), idle=idle if run is runs[-1] else ()) for run in runs)
    elif depth:
        for other in others:
            yield from _search(other, depth - 1)


def _starts(folder: Path) -> tuple[list[Path], list[Path], str | None]:
    """The folders in a folder: those of starts and the others, each by name; and why it cannot be opened."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith('.') and _may_be_folder(entry))
    except OSError as error:
        return [], [], f'it cannot be opened: {error.strerror or error}'
    inside: dict[bool, list[Path]] = {True: [], False: []}
    for one in (folder / name for name in names):
        if is_folder(one):
            inside[bool(_STAMP.fullmatch(one.name)) or is_folder(one / LOG.parent)].append(one)
    return inside[True], inside[False], None


def joined(starts: Iterable[Path]) -> list[list[Path]]:
    """Starts put together to runs: one that begins after the first line of the run before it was resumed.

    Starts that have logged no training step are left out, unless there are no others.
    """
    starts = list(starts)
    runs: list[list[Path]] = []
    first = None
    for start in starts:
        begin = _begin(start / LOG)
        if begin is None:
            continue
        if first is not None and begin[0] == first[0] and begin[1] > first[1]:
            runs[-1].append(start)
        else:
            runs.append([start])
            first = begin
    return runs or [starts]


def _begin(log: Path) -> tuple[str, float] | None:
    """Position of the first training step in a log; None when it has none or cannot be read."""
    try:
        with log.open('rb') as file:
            for text in file:
                line = training_line(text)
                if line is not None:
                    return position(line)
    except OSError:
        return None
    return None


def _named(places: list[Place]) -> list[Place]:
    """With names that tell them apart: the work_dir's; parents' where two are the same, the start's where it has several."""
    work_dirs = list(dict.fromkeys(_resolved(place.work_dir) for place in places))
    names = {work_dir: work_dir.name or str(work_dir) for work_dir in work_dirs}
    for parts in range(2, max((len(work_dir.parts) for work_dir in work_dirs), default=0) + 1):
        times = list(names.values())
        twice = [work_dir for work_dir in work_dirs if times.count(names[work_dir]) > 1]
        names |= {work_dir: '/'.join(work_dir.parts[-parts:]) for work_dir in twice}
    runs = [_resolved(place.work_dir) for place in places]
    return [
        replace(place, name=names[run] + (f'@{_first_start(place)}' if runs.count(run) > 1 else ''))
        for place, run in zip(places, runs, strict=True)
    ]


def _first_start(place: Place) -> str:
    return place.starts[0].name if place.starts else ''


def _may_be_folder(entry: os.DirEntry) -> bool:
    # of the thousands of images of a data set the system says so without a look at each
    return entry.is_symlink() or entry.is_dir(follow_symlinks=False)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return path.absolute()
