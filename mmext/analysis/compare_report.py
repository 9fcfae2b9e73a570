"""A comparison as tables: on the console, as Markdown and as CSV. No torch."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from mmext.analysis.compare import BEST, Column, Comparison
from mmext.analysis.config_diff import MISSING
from mmext.analysis.digest import DIAGNOSIS, FINISHED, RECORDS, Digest

# what the table of validations shows without --columns; a narrow one leaves out the last ones first
_VALIDATION = (
    'mask_ap',
    'box_ap',
    'mask_ap50',
    'mask_iou',
    'coverage',
    'val_loss',
    'mask_ap75',
    'mask_ap_s',
    'mask_ap_m',
    'mask_ap_l',
    'box_ap50',
    'boundary_iou',
)
# of the settings with several seeds
_OVER_SEEDS = ('box_ap', 'mask_ap', 'mask_ap50', 'mask_iou', 'coverage', 'val_loss')
# columns of words keep so much of their width at least, a run's name more
_LEAST, _LEAST_NAME = 16, 32
# up to so many runs the config keys are rows and the runs columns; more runs are rows
_KEYS_AS_ROWS = 5
# and so many runs have a line each on how they ended, more only where that is not as planned
_END_LINES = 6
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Sheet:
    """A table of strings: ``words`` are the places of its columns of words, which may be wrapped; the others are numbers.
    ``hidden``: headings of columns that were left out."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int]
    hidden: tuple[str, ...] = ()

    def fitted(self, width: int, dispensable: Sequence[int] | None = None) -> 'Sheet':
        """Without the columns for which there is no room: numbers are shown whole or not at all.

        Args:
            width: columns of the console.
            dispensable: places that may be left out, the first first; without, from the right.
        """
        places = list(range(len(self.headings)))
        leave = list(range(len(places) - 1, 0, -1) if dispensable is None else dispensable)
        while leave and sum(self._width(place) + 2 for place in places) + 2 > width:
            places.remove(leave.pop(0))
        return Sheet(
            self.title,
            tuple(self.headings[place] for place in places),
            tuple(tuple(row[place] for place in places) for row in self.rows),
            frozenset(i for i, place in enumerate(places) if place in self.words),
            tuple(heading for i, heading in enumerate(self.headings) if i not in places),
        )

    def _width(self, place: int) -> int:
        cells = [row[place] for row in self.rows]
        head = max(map(len, self.headings[place].split()), default=0)
        longest = max(head, *map(len, cells), 0) if cells else head
        return min(longest, _LEAST if place else _LEAST_NAME) if place in self.words else longest

    def to_table(self) -> Table:
        """Without its title, which may be wider."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for place, heading in enumerate(self.headings):
            if place in self.words:
                table.add_column(heading, overflow='fold', min_width=self._width(place))
            else:
                table.add_column(heading.replace(' ', '\n'), justify='right', no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def to_markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return f'| {" | ".join(cell.replace("|", chr(92) + "|").replace(chr(10), " ") for cell in cells)} |'

        rule = line(['---' if place in self.words else '---:' for place in range(len(self.headings))])
        return '\n'.join([f'**{self.title}**', '', line(self.headings), rule, *map(line, self.rows)])


def sheets(comparison: Comparison, names: Sequence[str] | None = None, width: int | None = None) -> list[Sheet]:
    """What there is to show, in its order: states and verdicts, validations, losses, config.

    Args:
        comparison: of :func:`mmext.analysis.compare.compare`.
        names: columns that are wanted, in one table in place of the first three; None for these.
        width: columns of the console; None when there is room for all.
    """
    if names is None:
        found = [_states(comparison, width), _validations(comparison, width), _losses(comparison, width)]
    else:
        sheet = _sheet(comparison, 'Runs', ['run', *(name for name in names if name != 'run')], comparison.runs)
        found = [sheet if width is None else sheet.fitted(width)]
    found += [_settings(comparison, width), *_noise(comparison, width), _differences(comparison, width)]
    return [sheet for sheet in found if sheet is not None]


def remarks(comparison: Comparison, every_end: bool = False) -> list[str]:
    """How runs ended, and what to know of their numbers."""
    lines = noise_lines(comparison)
    few = every_end or len(comparison.runs) <= _END_LINES
    for run in comparison.readable:
        if run.end and (few or run.state != FINISHED):
            lines.append(f'{run.name}: {run.end}')
        if run.idle:
            lines.append(f'{run.name}: started again without logging a training step: {", ".join(run.idle)}.')
    return lines


def noise_lines(comparison: Comparison) -> list[str]:
    """Whether the difference is noise: of two runs by their images, of two settings by their seeds."""
    return [*(comparison.noise.to_lines() if comparison.noise else []), *_seed_lines(comparison)]


def to_markdown(comparison: Comparison, names: Sequence[str] | None = None) -> str:
    """Tables in Markdown, and the remarks as a list."""
    parts = [sheet.to_markdown() for sheet in sheets(comparison, names)]
    lines = [*remarks(comparison, every_end=True), *(f'{run.path}: {run.problem}' for run in comparison.runs if run.problem)]
    return '\n\n'.join([*parts, '\n'.join(f'- {line}' for line in lines)]).rstrip() + '\n'


def to_csv(comparison: Comparison, names: Sequence[str] | None = None) -> str:
    """A row a run, a column for every number that any run has and for every config key in which they differ."""
    rows = comparison.rows
    if names is None:
        names = [name for name in comparison.columns if any(row[name] is not None for row in rows)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    differences = comparison.differences
    writer.writerow([*names, 'problem', *(f'config.{key}' for key in differences)])
    for run, row in zip(comparison.runs, rows, strict=True):
        configs = [_plain(values.get(run.name, '')) for values in differences.values()]
        writer.writerow([*(_plain(row[name]) for name in names), run.problem, *configs])
    return out.getvalue()


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


# ---- the tables


def cell(value: object, column: Column) -> str:
    """A value as the tables have it; MISSING where there is none."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return str(value)
    return f'{value:{column.form}}'


def progress_of(run: Digest) -> str:
    """``8/12``, or ``900/1000 it`` of a training by iterations."""
    if run.done is None:
        return MISSING
    planned = '' if run.planned is None else f'/{run.planned:.0f}'
    return f'{run.done:.0f}{planned}{"" if run.unit == "epoch" else " it"}'


def _sheet(comparison: Comparison, title: str, names: Sequence[str], runs: Sequence[Digest]) -> Sheet:
    columns = comparison.columns
    rows = [
        tuple(progress_of(run) if name == 'epochs' else cell(row[name], columns[name]) for name in names)
        for run, row in zip(comparison.runs, comparison.rows, strict=True)
        if run in runs
    ]
    words = frozenset(place for place, name in enumerate(names) if columns[name].form == '')
    return Sheet(title, tuple(columns[name].heading for name in names), tuple(rows), words)


def _has(comparison: Comparison, name: str) -> bool:
    return any(row[name] is not None for row in comparison.rows)


def _states(comparison: Comparison, width: int | None) -> Sheet:
    names = ['run', 'state', 'epochs', *(name for name in ('time', 'memory') if _has(comparison, name))]
    sheet = _sheet(comparison, 'Runs', names, comparison.runs)
    few = len(comparison.runs) <= _END_LINES
    said = tuple(_said(run, few) for run in comparison.runs)
    rows = tuple((*row, text) for row, text in zip(sheet.rows, said, strict=True))
    sheet = Sheet(sheet.title, (*sheet.headings, 'verdict'), rows, sheet.words | {len(names)})
    return sheet if width is None else sheet.fitted(width)


def _said(run: Digest, sentence: bool) -> str:
    verdict = run.verdict
    if verdict is None:
        return run.problem or MISSING
    text = verdict.text.replace(' below', '') if sentence else verdict.code or verdict.status
    return text if verdict.source in (DIAGNOSIS, RECORDS) else f'{text} (by {verdict.source})'


def _validations(comparison: Comparison, width: int | None) -> Sheet | None:
    runs = [run for run in comparison.runs if run.val]
    chosen = [name for name in _VALIDATION if _has(comparison, name)]
    if comparison.metric not in chosen and _has(comparison, comparison.metric):
        chosen.insert(0, comparison.metric)
    if not runs or not chosen:
        return None
    names = ['run', *(name for name in comparison.columns if name in {*chosen, 'validation'})]
    column = comparison.columns[comparison.metric]
    what = 'lowest' if column.better < 0 else 'highest'
    times = sorted({len(run.val) for run in runs})
    of = f'{times[0]}' if len(times) == 1 else f'{times[0]} to {times[-1]}'
    title = (
        f"Validation with each run's {what} {column.heading}, the best of {of}"
        if comparison.at == BEST
        else 'Last validation'
    )
    if times == [1]:
        title = 'Validation'
    sheet = _sheet(comparison, title, names, runs)
    dispensable = [names.index(name) for name in reversed(chosen) if name != comparison.metric]
    return sheet if width is None else sheet.fitted(width, dispensable)


def _losses(comparison: Comparison, width: int | None) -> Sheet | None:
    columns = comparison.columns
    families = [name.removeprefix('share_') for name in columns if name.startswith('share_')]
    runs = [run for run in comparison.runs if run.last]
    if not runs or not families:
        return None

    def row(values) -> tuple[str, ...]:
        cells = [cell(values['run'], columns['run']), cell(values['loss'], columns['loss'])]
        for family in families:
            share = values[f'share_{family}']
            cells.append(cell(values[f'loss_{family}'], columns['loss']) + ('' if share is None else f' {share:.0%}'))
        return tuple(cells)

    rows = tuple(row(values) for run, values in zip(comparison.runs, comparison.rows, strict=True) if run.last)
    title = 'Last log line: loss and share of the total'
    sheet = Sheet(title, ('run', 'total', *families), rows, frozenset({0}))
    return sheet if width is None else sheet.fitted(width)


def _settings(comparison: Comparison, width: int | None) -> Sheet | None:
    """Mean and spread over the seeds of each setting."""
    if not comparison.settings:
        return None
    names = [name for name in (comparison.metric, *_OVER_SEEDS) if _has(comparison, name)]
    names = list(dict.fromkeys(names))

    def text(value: tuple[float, float | None] | None, column: Column) -> str:
        if value is None:
            return MISSING
        mean, spread = value
        return cell(mean, column) + (f' ± {spread:{column.form}}' if spread is not None else '')

    rows = tuple(
        (one.name, str(len(one.runs)), *(text(comparison.over(one, name), comparison.columns[name]) for name in names))
        for one in comparison.settings
    )
    headings = ('setting', 'seeds', *(comparison.columns[name].heading for name in names))
    sheet = Sheet('Over the seeds: mean ± standard deviation', headings, rows, frozenset({0}))
    return sheet if width is None else sheet.fitted(width)


def _seed_lines(comparison: Comparison) -> list[str]:
    difference = comparison.over_seeds
    if difference is None:
        return []
    heading = comparison.columns[comparison.metric].heading
    if comparison.columns[comparison.metric].better < 0:
        verdict = {'better': 'worse', 'worse': 'better'}.get(difference.verdict, difference.verdict)
    else:
        verdict = difference.verdict
    first, second = (one.name for one in comparison.settings)
    return [
        f'{heading}, {second} - {first} over {difference.number} common seeds: {difference.value:+.3f}, 95 % interval '
        f'{difference.low:+.3f} to {difference.high:+.3f}: {second} is {verdict}.'
        if verdict in ('better', 'worse')
        else f'{heading}, {second} - {first}: {difference.value:+.3f}, 95 % interval {difference.low:+.3f} to '
        f'{difference.high:+.3f}: they cannot be told apart with {difference.number} common seeds.'
        + (f' To tell a difference of this size takes about {difference.needed}.' if difference.needed else ''),
        "That is the seeds' noise, on these validation images: what another draw of images would change is not in it.",
    ]


def _noise(comparison: Comparison, width: int | None) -> list[Sheet]:
    """Of two runs: which numbers got better or worse by their predictions, and the images that changed most."""
    noise = comparison.noise
    if noise is None or noise.problem:
        return []
    first, second = noise.names
    rows = tuple(
        (
            row.name,
            str(row.objects),
            f'{row.first:.3f}',
            f'{row.second:.3f}',
            f'{row.second - row.first:+.3f}',
            f'{row.difference.low:+.3f} to {row.difference.high:+.3f}' if row.difference else MISSING,
            row.difference.verdict if row.difference else f'too few images ({row.images})',
        )
        for row in noise.rows
        if row.first is not None and row.second is not None
    )
    headings = ('number', 'objects', first, second, 'difference', '95 % interval', f'{second} is')
    title = (
        f'By the predictions of the {noise.which} validation of each (of 20 numbers that are equal, one differs by chance)'
    )
    numbers = Sheet(title, headings, rows, frozenset({0, 5, 6}))
    changed = tuple(
        (
            one.file,
            str(one.objects),
            *(
                f'{found} ({MISSING if iou is None else f"{iou:.2f}"})'
                for found, iou in zip(one.found, one.iou, strict=True)
            ),
            *map(str, one.false),
            f'{one.effect:+.4f}',
        )
        for one in noise.changed
    )
    headings = (
        'image',
        'objects',
        f'found (IoU) {first}',
        f'found (IoU) {second}',
        f'false {first}',
        f'false {second}',
        'effect',
    )
    images = Sheet('Images that changed most (found at any score, false from 0.5 on)', headings, changed, frozenset({0}))
    found = [numbers, images] if changed else [numbers]
    return found if width is None else [sheet.fitted(width) for sheet in found]


def _differences(comparison: Comparison, width: int | None) -> Sheet | None:
    """Two runs side by side, of many a matrix: keys by runs up to a handful, then runs by keys."""
    differences = comparison.differences
    runs = [run.name for run in comparison.runs if run.config]
    if not differences:
        return None
    title = 'Config lines in which they differ'
    if len(runs) <= _KEYS_AS_ROWS:
        rows = tuple((key, *(_shown(values[run]) for run in runs)) for key, values in differences.items())
        return Sheet(title, ('key', *runs), rows, frozenset(range(len(runs) + 1)))
    keys = sorted(differences, key=lambda key: list(differences[key].values()).count(MISSING))  # what all runs have first
    short = short_names(keys)
    rows = tuple((run, *(_shown(differences[key][run]) for key in keys)) for run in runs)
    sheet = Sheet(title, ('run', *(short[key] for key in keys)), rows, frozenset(range(len(differences) + 1)))
    return sheet if width is None else sheet.fitted(width)


def _shown(value: object) -> str:
    text = value if value is MISSING else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f'{text[: _LONGEST_VALUE - 1]}…'


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Dotted keys by their last parts, as many as tell them apart: ``optimizer.lr``."""
    short = {key: key.rpartition('.')[2] for key in keys}
    for parts in range(2, max((key.count('.') for key in keys), default=0) + 2):
        taken = list(short.values())
        twice = [key for key in keys if taken.count(short[key]) > 1]
        short |= {key: '.'.join(key.split('.')[-parts:]) for key in twice}
    return short
