"""The raw results of the experiment: a small JSON file a run, results/CELL/SETTING-seedN.json. No torch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cells import SAME, TUNING, Cell, Run

from mmext.atomic_file import write_atomically
from mmext.errors import InputError

SCHEMA_VERSION = 1
RESULTS = Path(__file__).resolve().parent / 'results'
BOX_AP, MASK_AP = 'coco/bbox_mAP', 'coco/segm_mAP'
# name in tables: key in a record
METRICS = {
    'box AP': BOX_AP,
    'mask AP': MASK_AP,
    'mask IoU': 'mask/iou',
    'coverage': 'mask/coverage',
    'area ratio': 'mask/area_ratio',
    'boundary IoU': 'mask/boundary_iou',
    'box-mask gap': 'mask/gap',
}
# what a run that diverged has got; of objects that it has not found nothing can be said
_LOST = {BOX_AP: 0.0, MASK_AP: 0.0}


@dataclass(frozen=True)
class Record:
    """What came out of a run.

    ``groups``: of each parameter group ``name``, ``lr``, ``multiplier``, number of trained ``tensors``, names of ``fresh``
    ones; ``curve``: metrics of the validations by ``iteration``; ``log``: ``iteration``, ``loss``, ``share_mask``, a value
    for each log line; ``test``: metrics of the last checkpoint on ``test_images``, none of a tuning run; ``diverged``: a
    loss or a gradient was no number.
    """

    cell: str
    setting: str
    seed: int
    diverged: bool
    iterations: int
    groups: tuple[dict, ...]
    curve: tuple[dict, ...]
    log: dict[str, list]
    test: dict[str, float]
    test_images: int
    seconds_per_iteration: float | None
    versions: dict[str, str]

    @property
    def is_tuning(self) -> bool:
        return self.setting.startswith(TUNING)

    def value(self, key: str) -> float | None:
        """A metric on the test part, of a tuning run on the validation part; None where there is none."""
        if self.diverged:
            return _LOST.get(key)
        values = self.curve[-1] if self.is_tuning and self.curve else self.test
        return values.get(key)

    @property
    def end_share(self) -> float | None:
        """The mask loss's share of the total over the last fifth of the log; None of a run that diverged."""
        shares = [share for share in self.log.get('share_mask', ()) if share is not None]
        last = shares[-max(1, len(shares) // 5) :]
        return None if self.diverged or not last else sum(last) / len(last)


def path_of(run: Run, folder: Path) -> Path:
    return folder / run.cell.name / f'{run.setting.name}-seed{run.seed}.json'


def write_record(record: Record, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # a line a key: a difference in git shows what changed
    lines = [
        f' {json.dumps(key)}: {json.dumps(value)}'
        for key, value in {'schema_version': SCHEMA_VERSION, **asdict(record)}.items()
    ]
    write_atomically(('{\n' + ',\n'.join(lines) + '\n}\n').encode(), path)


def read_record(path: Path) -> Record:
    """Raises: InputError when the file is no record, or one of another version."""
    try:
        document = json.loads(path.read_text())
        version = document.pop('schema_version')
        record = Record(**{**document, 'groups': tuple(document['groups']), 'curve': tuple(document['curve'])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f'{path}: is no record of a run ({error}). Remove it; run.py makes it anew.') from None
    if version != SCHEMA_VERSION:
        raise InputError(f'{path}: its schema_version is {version}, this program reads {SCHEMA_VERSION}.')
    return record


def read_records(folder: Path) -> list[Record]:
    """All records below a folder. Raises: InputError for a file that is none."""
    return [read_record(path) for path in sorted(folder.glob('*/*.json'))]


def missing(runs: Iterable[Run], records: Iterable[Record]) -> list[Run]:
    """Runs without a record."""
    there = {(record.cell, record.setting, record.seed) for record in records}
    return [run for run in runs if (run.cell.name, run.setting.name, run.seed) not in there]


def by_seed(records: Iterable[Record], cell: str, setting: str) -> dict[int, Record]:
    """The records of a setting, or of those that stand for it."""
    wanted = SAME.get((cell, setting), (cell, setting))
    return {record.seed: record for record in records if (record.cell, record.setting) == wanted}


def values(records: Iterable[Record], cell: str, setting: str, key: str) -> dict[int, float]:
    """A metric of a setting by seed, of the runs that have it."""
    found = {seed: record.value(key) for seed, record in by_seed(records, cell, setting).items()}
    return {seed: value for seed, value in sorted(found.items()) if value is not None}


def best_rate(records: Sequence[Record], cell: Cell) -> float | None:
    """The base rate of a cell with the highest mean mask AP on the validation part, the lower one of two alike.

    Returns:
        None while a run that chooses it is missing, and where none does.
    """
    means = {}
    for rate in cell.rates:
        found = values(records, cell.name, f'{TUNING}{rate:g}', MASK_AP)
        if not cell.tuning or not set(cell.tuning) <= set(found):
            return None
        means[rate] = sum(found[seed] for seed in cell.tuning) / len(cell.tuning)
    return max(means, key=means.get)
