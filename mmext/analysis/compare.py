"""Runs side by side: where they stand, what came out, and where their configs differ. No torch."""

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmext.analysis.config_diff import config_differences
from mmext.analysis.digest import Digest, read_digest
from mmext.analysis.seeds import Setting, mean_and_spread, paired, settings_of
from mmext.analysis.shares import by_family, shares
from mmext.analysis.work_dirs import find_runs
from mmext.errors import InputError

SCHEMA_VERSION = 2
BEST, LAST = 'best', 'last'


@dataclass(frozen=True)
class Column:
    """A number of a run: its heading, its format, whether more is better (1), worse (-1) or neither (0), and ``key``, its
    name in the log when a validation measures it."""

    heading: str
    form: str = '.3f'
    better: int = 1
    key: str | None = None


COLUMNS = {
    'run': Column('run', '', 0),
    'path': Column('path', '', 0),
    'state': Column('state', '', 0),
    'epochs': Column('epochs', '.0f', 0),
    'planned': Column('planned', '.0f', 0),
    'iterations': Column('iterations', '.0f', 0),
    'time': Column('s/iter', '.3g', -1),
    'memory': Column('GB', '.2f', -1),
    'validation': Column('at', '.0f', 0),
    'validations': Column('validations', 'd', 0),
    'box_ap': Column('box AP', key='coco/bbox_mAP'),
    'box_ap50': Column('box AP50', key='coco/bbox_mAP_50'),
    'box_ap75': Column('box AP75', key='coco/bbox_mAP_75'),
    'box_ap_s': Column('box AP small', key='coco/bbox_mAP_s'),
    'box_ap_m': Column('box AP medium', key='coco/bbox_mAP_m'),
    'box_ap_l': Column('box AP large', key='coco/bbox_mAP_l'),
    'mask_ap': Column('mask AP', key='coco/segm_mAP'),
    'mask_ap50': Column('mask AP50', key='coco/segm_mAP_50'),
    'mask_ap75': Column('mask AP75', key='coco/segm_mAP_75'),
    'mask_ap_s': Column('mask AP small', key='coco/segm_mAP_s'),
    'mask_ap_m': Column('mask AP medium', key='coco/segm_mAP_m'),
    'mask_ap_l': Column('mask AP large', key='coco/segm_mAP_l'),
    'mask_iou': Column('mask IoU', key='mask/iou'),
    'coverage': Column('coverage', better=0, key='mask/coverage'),
    'area_ratio': Column('area ratio', better=0, key='mask/area_ratio'),
    'boundary_iou': Column('boundary IoU', key='mask/boundary_iou'),
    'val_loss': Column('val loss', better=-1, key='val_loss'),
    'val_loss_mask': Column('val mask loss', better=-1, key='val_loss_mask'),
    'loss': Column('loss', better=-1),
    'verdict': Column('verdict', '', 0),
}
# which of them chooses the validation when nobody says it: the first that a run has
_METRICS = ('mask_ap', 'box_ap', 'val_loss')


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: the one record that table, CSV, JSON, Markdown and page show.

    ``rows``: of each run the value of each column, None where it has none. Validation metrics are all of one validation,
    the one of the best ``metric`` or the last one (``at``). ``differences``: dotted config key to the value of each run that
    has a config, by its name. ``columns``: name to column, those of the log's other names included. ``settings``: runs that
    differ in their seed only. ``over_seeds``: of two such settings the difference of the metric over the seeds that both
    have; ``noise``: of two runs what their predictions say (mmext.analysis.noise); None where it was not asked for or cannot
    be said.
    """

    runs: tuple[Digest, ...]
    rows: tuple[Mapping[str, object], ...]
    columns: Mapping[str, Column]
    metric: str
    at: str
    differences: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    over_seeds: object = None
    noise: object = None

    @property
    def readable(self) -> tuple[Digest, ...]:
        return tuple(run for run in self.runs if run.readable)

    def to_record(self) -> dict:
        """For JSON: docs/compare.md has the schema."""
        return {
            'schema_version': SCHEMA_VERSION,
            'metric': self.metric,
            'at': self.at,
            'runs': [
                {
                    **row,
                    'starts': list(run.starts),
                    'problem': run.problem,
                    'end': run.end,
                    'verdict': run.verdict and asdict(run.verdict),
                    'best': {name: _best(run.val, column) for name, column in self.columns.items() if column.key},
                    'losses': by_family(run.last),
                    'shares': shares(run.last),
                }
                for run, row in zip(self.runs, self.rows, strict=True)
            ],
            'config_differences': {key: dict(values) for key, values in self.differences.items()},
            'settings': [
                {
                    'name': one.name,
                    'runs': [self.runs[place].name for place in one.runs],
                    'seeds': list(one.seeds),
                    'means': {name: self.over(one, name) for name, column in self.columns.items() if column.form},
                }
                for one in self.settings
            ],
            'over_seeds': self.over_seeds and {**asdict(self.over_seeds), 'verdict': self.over_seeds.verdict},
            'noise': self.noise and self.noise.to_record(),
        }

    def over(self, setting: Setting, name: str) -> tuple[float, float | None] | None:
        """Mean and standard deviation of a column over the seeds of a setting."""
        return mean_and_spread([self.rows[place][name] for place in setting.runs])

    def to_json(self) -> str:
        return json.dumps(finite(self.to_record()), indent=2, allow_nan=False) + '\n'


def compare(
    folders: Iterable[str | Path],
    metric: str | None = None,
    at: str = BEST,
    sort: str | None = None,
    curves: bool = False,
    noise: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Comparison:
    """Set the runs in folders side by side.

    Args:
        folders: work_dirs, folders of work_dirs, or folders of single starts.
        metric: column, or name in the log, whose best validation is shown; without, mask AP where there is one.
        at: ``'best'`` or ``'last'``, the validation that is shown.
        sort: column by which to order the runs, best first; without, they stay as given.
        curves: whether the runs' log lines are wanted too.
        noise: whether to say if a difference is noise: of two runs, or of two settings with several seeds.
        progress: is told what is done, how much of it, and of how much.

    Raises:
        InputError: no run has such a column.
    """
    places = find_runs(folders)
    runs = []
    for number, place in enumerate(places, 1):
        runs.append(read_digest(place, curves))
        progress('reading', number, len(places))
    columns = all_columns(runs)
    if metric is None:
        metric = next((one for one in _METRICS if any(_values(run, columns[one]) for run in runs)), _METRICS[0])
    else:
        metric = column_name(metric, columns, 'metric')
        if not columns[metric].key:
            measured = ', '.join(name for name, column in columns.items() if column.key)
            raise InputError(f'metric: {metric} is not measured in validation. Allowed: {measured}.')
    rows = [_row(run, columns, metric, at) for run in runs]
    if sort is not None:
        order = _order(rows, column_name(sort, columns, 'sort'), columns)
        runs, rows = [runs[i] for i in order], [rows[i] for i in order]
    with_config = [run for run in runs if run.config]
    differences = config_differences([run.config for run in with_config])
    names = [run.name for run in with_config]
    settings = settings_of(runs)
    return Comparison(
        tuple(runs),
        tuple(rows),
        columns,
        metric,
        at,
        {key: dict(zip(names, values, strict=True)) for key, values in differences.items()},
        tuple(settings),
        _over_seeds(settings, rows, metric) if noise else None,
        _noise([run for run in runs if run.readable], at) if noise else None,
    )


def _over_seeds(settings: Sequence[Setting], rows: Sequence[Mapping[str, object]], metric: str):
    """The difference of two settings over seeds; None unless there are two with two common seeds."""
    if len(settings) != 2:
        return None
    first, second = paired(*settings, rows, metric)
    if len(first) < 2:
        return None
    from mmext.analysis.bootstrap import over_seeds  # inside: it needs NumPy

    return over_seeds(first, second)


def _noise(runs: Sequence[Digest], at: str):
    """What the predictions of two runs say; None of more runs, and of two that have kept none."""
    starts = [[run.path / start for start in run.starts] for run in runs]
    if len(runs) != 2 or not any(next(start.glob('predictions_*.npz'), None) for start in starts[0] + starts[1]):
        return None
    from mmext.analysis.noise import compare_predictions  # inside: it needs NumPy

    return compare_predictions(*starts, names=(runs[0].name, runs[1].name), which=LAST if at == LAST else None)


def all_columns(runs: Sequence[Digest]) -> dict[str, Column]:
    """The columns above, those of the loss families of these runs, and every other name of their validations."""
    columns = dict(COLUMNS)
    verdict = columns.pop('verdict')
    for family in dict.fromkeys(family for run in runs for family in by_family(run.last)):
        columns[f'loss_{family}'] = Column(f'loss {family}', better=-1)
        columns[f'share_{family}'] = Column(f'share {family}', '.0%', 0)
    named = {column.key for column in columns.values()}
    for key in dict.fromkeys(key for run in runs for line in run.val for key in line):
        if key not in named and key not in columns and key not in ('epoch', 'step', 'iter', 'time', 'data_time'):
            columns[key] = Column(key, '.4g', -1 if 'loss' in key else 1, key)
    return {**columns, 'verdict': verdict}


def column_name(given: str, columns: Mapping[str, Column], option: str) -> str:
    """The column that is meant: by its name, its heading (``mask AP``), or its name in the log.

    Raises:
        InputError: there is none.
    """
    for name, column in columns.items():
        if given.strip().lower() in (name.lower(), column.heading.lower(), (column.key or name).lower()):
            return name
    near = difflib.get_close_matches(given, columns, 1)
    meant = f' Did you mean {near[0]!r}?' if near else ''
    raise InputError(f'{option}: no run has {given!r}. There are: {", ".join(columns)}.{meant}')


def _row(run: Digest, columns: Mapping[str, Column], metric: str, at: str) -> dict[str, object]:
    line = _validation(run, columns[metric], at)
    families, parts = by_family(run.last), shares(run.last)
    row: dict[str, object] = {
        'run': run.name,
        'path': str(run.path),
        'state': run.state,
        'epochs': run.last.get('epoch'),
        'planned': run.planned,
        'iterations': run.iterations,
        'time': run.seconds,
        'memory': None if run.memory is None else run.memory / 1024,
        'validation': line.get('epoch', line.get('step')),
        'validations': len(run.val),
        'loss': run.last.get('loss'),
        'verdict': run.verdict and (run.verdict.code or run.verdict.status),
    }
    row |= {f'loss_{family}': value for family, value in families.items()}
    row |= {f'share_{family}': value for family, value in parts.items()}
    row |= {name: _measured(line, column) for name, column in columns.items() if column.key}
    return {name: row.get(name) for name in columns}


def _measured(line: Mapping[str, float], column: Column) -> float | None:
    """A metric of a validation; None where it has none, and for COCO's -1, which says that there is no such object."""
    value = line.get(column.key)
    return None if value is None or (value == -1 and column.key.startswith(('coco/', 'mask/'))) else value


def _values(run: Digest, column: Column) -> list[tuple[float, int]]:
    """The numbers that the validations of a run have for a metric, better ones higher, and their places."""
    values = [(_measured(line, column), place) for place, line in enumerate(run.val)]
    sign = -1 if column.better < 0 else 1
    return [(sign * value, place) for value, place in values if value is not None and math.isfinite(value)]


def _validation(run: Digest, column: Column, at: str) -> Mapping[str, float]:
    """The validation to show: of several best ones the first; the last one where the metric was never measured."""
    found = _values(run, column)
    if at == BEST and found:
        return run.val[max(found, key=lambda one: (one[0], -one[1]))[1]]
    return run.val[-1] if run.val else {}


def _best(val: Sequence[Mapping[str, float]], column: Column) -> float | None:
    values = [value for line in val if (value := _measured(line, column)) is not None and math.isfinite(value)]
    return (min if column.better < 0 else max)(values, default=None)


def _order(rows: Sequence[Mapping[str, object]], name: str, columns: Mapping[str, Column]) -> list[int]:
    """Places of the rows by a column, best first; those without a value last."""

    def key(place: int) -> tuple:
        value = rows[place][name]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return (1,)
        return 0, value if isinstance(value, str) else -value if columns[name].better > 0 else value

    return sorted(range(len(rows)), key=key)


def finite(value: object) -> object:
    """The same without NaN and infinities, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
