"""The results of the experiment: tables into docs/experiment.md, figures to docs/images/experiment_*.png. Trains nothing.

python benchmarks/experiment/report.py [--results FOLDER] [--page FILE] [--images FOLDER]

The tables stand in the page between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; what is there is replaced. Runs that
are missing are named as missing, and a comparison is over the seeds that both settings have.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import verdicts
from cells import (
    ALWAYS,
    BEST,
    BEST_TEN,
    CELLS,
    LOW,
    RATES,
    SAME,
    TUNED,
    TUNING,
    Cell,
    Run,
    counted_runs,
    options_of,
    tuning_runs,
)
from records import BOX_AP, MASK_AP, METRICS, RESULTS, Record, best_rate, by_seed, missing, read_records, values

from mmext.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
CORE = next(cell for cell in CELLS if cell.name == 'core')
TEN, FRESH, UNIFORM_LOW = 'differential-10x', 'fresh-10x', 'uniform-low'
# S0's own base, and the one that was searched on made images
TEN_OF_S0, TEN_SEARCHED = 'differential-10x-0.01', 'differential-10x-0.02'
NOTHING = 'Nothing has been run.'
# second − first, beside each setting − uniform-best; second by cell where it is not the first's
PAIRS = {
    'core': (
        (UNIFORM_LOW, TEN),
        (TEN, 'differential-5x'),
        (TEN, 'differential-15x'),
        (TEN, FRESH),
        ('backbone-tenth', 'staged'),
        ('uniform-low', 'uniform-low-3x'),
    ),
    '15-images': ((TEN, FRESH),),
    '8-fresh': ((TEN, FRESH),),
    'new-heads': ((TEN, FRESH),),
    'droplets': ((TEN, FRESH),),
    'tuned': ((BEST_TEN, TEN_OF_S0),),
    'transfer': (
        (BEST, 'backbone-tenth'),
        (BEST, TEN_SEARCHED),
        (BEST, TEN_OF_S0),
        (TEN, TEN_OF_S0),
        (TEN_SEARCHED, TEN_OF_S0),
    ),
    'longer': (
        ('uniform-0.16', 'backbone-tenth'),
        ('uniform-0.16', TEN_OF_S0),
        ('uniform-0.16', TEN),
        (TEN, 'backbone-tenth'),
    ),
    'mask-size': (('28', '14'), ('28', '56')),
    'noise': (('bce-0', 'gce-0'), ('bce-15', 'gce-15'), ('bce-30', 'gce-30')),
}
# Okabe and Ito, told apart by the colour-blind, then the same once more with dashes
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')


def settings_of(cell: Cell) -> list[str]:
    """Names of a cell's settings, those of other cells that stand for one first."""
    extra = [name for of, name in SAME if of == cell.name]
    return extra + [setting.name for setting in cell.settings]


def grid(headings: Sequence[str], rows: Iterable[Sequence[object]], words: int = 1) -> str:
    """A table in Markdown; the first so many columns are words and stand to the left."""
    rows = list(rows)
    if not rows:
        return NOTHING
    ruler = ['---' if i < words else '---:' for i in range(len(headings))]
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in (headings, ruler, *rows))


def number(value: float | None, digits: int = 3) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def spread(found: Sequence[float]) -> str:
    """Mean and standard deviation (n − 1)."""
    if len(found) < 2:
        return number(found[0]) if found else '-'
    return f'{mean(found):.3f} ± {stdev(found):.3f}'


def difference(one: verdicts.Interval | None) -> str:
    return '-' if one is None else f'{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})'


# ---- tables


def settings_table(records: Sequence[Record]) -> str:
    """Every setting as config keys and values, from cells.py: it is there before the first run."""
    of_core = {setting.name: setting for setting in CORE.settings}
    rows = [('all runs', _keys(ALWAYS), '', '')]
    for cell in CELLS:
        if cell.options:
            rows.append((f'{cell.name}: all', _keys(cell.options), '', ''))
        for setting in cell.settings:
            words = [_keys(setting.options)] if setting.options else []
            if setting.name in TUNED:
                words.append(f'as {UNIFORM_LOW if setting.name == BEST else TEN}, at the base rate that is chosen')
            if cell is not CORE and setting.options and setting == of_core.get(setting.name):
                words = ['as in core']
            if setting.heads_first:
                stages = options_of(Run(cell, setting, 0))['default_hooks.staged_training']
                words.append(_keys({'default_hooks.staged_training': stages}))
            if setting.noise:
                words.append(f'{setting.noise:.0%} of the mask pixels turned round')
            budget, seeds = cell.epochs * setting.budget, ', '.join(map(str, cell.seeds))
            rows.append((f'{cell.name}: {setting.name}', '<br>'.join(words), budget, seeds))
    return grid(('setting', 'config keys and values', 'epochs', 'seeds'), rows, words=2)


def _keys(options: Mapping[str, object]) -> str:
    return '<br>'.join(f'`{key}={_short(value)}`' for key, value in options.items())


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_short(one)}" for key, one in value.items() if key != "_delete_")})'
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(map(_short, value))}]'
    return repr(value)


def missing_table(records: Sequence[Record]) -> str:
    lost = missing([*tuning_runs(CELLS), *counted_runs(CELLS)], records)
    total = len(tuning_runs(CELLS)) + len(counted_runs(CELLS))
    rows = []
    for cell in CELLS:
        names = [f'{run.setting.name} {run.seed}' for run in lost if run.cell.name == cell.name]
        every = len(tuning_runs([cell])) + len(counted_runs([cell]))
        if names:
            rows.append((cell.name, f'{len(names)} of {every}', 'all' if len(names) == every else ', '.join(names)))
    if not rows:
        return f'All {total} runs are there.'
    return f'{len(lost)} of {total} runs are missing (setting and seed).\n\n' + grid(
        ('cell', 'missing', 'which'), rows, words=3
    )


def verdict_table(records: Sequence[Record]) -> str:
    """H0 to H2 by their primary outcomes, in the core cell; H0 in the others beside it."""
    level = f'{verdicts.LEVEL:.1%}'
    rows = []
    for cell in (CORE, *(cell for cell in CELLS if cell.tuned == BEST and cell is not CORE)):
        found = symptoms_of(records, cell)
        if found:
            good = [one for one in found if one.has_good_boxes and one.coverage]
            worst = min(good, key=lambda one: one.coverage.low, default=None)
            words = 'none has two runs' if worst is None else f'lowest: {worst.setting}, {_bounds(worst.coverage)}'
            what = 'H0' if cell is CORE else f'H0 in {cell.name} (secondary)'
            rows.append((what, f'coverage of the settings with good boxes; {words}', verdicts.verdict_h0(found)))
    mask_ap = {name: values(records, 'core', name, MASK_AP) for name in settings_of(CORE)}
    one = verdicts.paired(mask_ap[BEST], mask_ap[TEN], verdicts.LEVEL)
    if one:
        rows.append(('H1', f'mask AP, 10x − uniform-best: {difference(one)}, {level} interval', verdicts.verdict_h1(one)))
    fresh = verdicts.fresh_share(mask_ap[UNIFORM_LOW], mask_ap[FRESH], mask_ap[TEN])
    if fresh:
        share = 'no gain' if fresh.share is None else f'{fresh.share:.0%} of it from the fresh tensors alone'
        words = f'gain of 10x over uniform-low {difference(fresh.gain)}, {share}; less half {difference(fresh.contrast)}'
        rows.append(('H2', f'mask AP, {words}, {level} intervals', verdicts.verdict_h2(fresh)))
    return grid(('hypothesis', 'primary outcome', 'verdict'), rows, words=3)


def _bounds(one: verdicts.Interval) -> str:
    return f'{one.value:.3f} ({one.low:.3f} to {one.high:.3f})'


def symptoms_of(records: Sequence[Record], cell: Cell) -> list[verdicts.Symptom]:
    columns = {
        key: {name: list(values(records, cell.name, name, key).values()) for name in settings_of(cell)}
        for key in (BOX_AP, METRICS['coverage'], METRICS['area ratio'])
    }
    there = {name: found for name, found in columns[BOX_AP].items() if found}
    return verdicts.symptoms(there, columns[METRICS['coverage']], columns[METRICS['area ratio']])


def masks_table(records: Sequence[Record]) -> str:
    """Are masks small, or ragged?"""
    rows = []
    for cell in _begun(records):
        for one in symptoms_of(records, cell):
            coverage = '-' if one.coverage is None else _bounds(one.coverage)
            edge = values(records, cell.name, one.setting, METRICS['boundary IoU'])
            so = f'good boxes, {one.masks}' if one.has_good_boxes else one.masks
            box_ap = f'{one.box_ap:.3f} ({one.share:.0%})'
            area = number(one.area_ratio)
            rows.append((f'{cell.name}: {one.setting}', box_ap, coverage, area, spread(list(edge.values())), so))
    return grid(('setting', "box AP (of the cell's best)", 'coverage', 'area ratio', 'boundary IoU', 'so'), rows)


def _begun(records: Sequence[Record]) -> list[Cell]:
    """Cells with counted runs of their own; those that stand for a setting alone tell nothing new."""
    begun = {record.cell for record in records if not record.is_tuning}
    return [cell for cell in CELLS if cell.name in begun]


def levels_table(records: Sequence[Record]) -> str:
    rows = []
    for cell in _begun(records):
        for name in settings_of(cell):
            found = by_seed(records, cell.name, name)
            if found:
                lost = sum(record.diverged for record in found.values())
                cells = [spread(list(values(records, cell.name, name, key).values())) for key in METRICS.values()]
                rows.append((f'{cell.name}: {name}', len(found), lost, *cells))
    return grid(('setting', 'runs', 'diverged', *METRICS), rows)


def rates_table(records: Sequence[Record]) -> str:
    """The base rates on the validation part, mean mask AP and box AP."""
    rows = []
    for cell in CELLS:
        if any(by_seed(records, cell.name, f'{TUNING}{rate:g}') for rate in RATES):
            pairs = []
            for rate in RATES:
                both = (values(records, cell.name, f'{TUNING}{rate:g}', key).values() for key in (MASK_AP, BOX_AP))
                pairs.append(' / '.join(number(mean(one) if one else None) for one in both))
            best = best_rate(records, cell)
            rows.append((f'{cell.name}: {cell.tuned}', *pairs, '-' if best is None else f'{best:g}'))
    return grid(('mask AP / box AP', *(f'{rate:g}' for rate in RATES), 'chosen'), rows)


def differences_table(records: Sequence[Record]) -> str:
    """Paired differences with 95 % t intervals; p corrected by Holm over the rows of a cell, mask AP."""
    rows = []
    for cell in CELLS:
        against_best = [(BEST, name) for name in settings_of(cell) if cell.tuning and name != BEST]
        of_cell, p_values = [], []
        for first, second in dict.fromkeys([*against_best, *PAIRS.get(cell.name, ())]):
            columns = [
                verdicts.paired(*(values(records, cell.name, name, key) for name in (first, second)))
                for key in METRICS.values()
            ]
            mask_ap = columns[list(METRICS).index('mask AP')]
            if mask_ap:
                p_values.append(mask_ap.p)
                words = (difference(one) for one in columns)
                of_cell.append([f'{cell.name}: {second} − {first}', mask_ap.number, *words])
        for row, p in zip(of_cell, verdicts.holm(p_values), strict=True):
            rows.append([*row, '<0.001' if p < 0.001 else f'{p:.3f}'])
    return grid(('difference', 'seeds', *METRICS, 'p of mask AP'), rows)


def curve_of(records: Sequence[Record], cell: str, setting: str, key: str) -> dict[int, list[float]]:
    """A metric of the validations by iteration, a value for each seed that has one there."""
    found: dict[int, list[float]] = {}
    for record in by_seed(records, cell, setting).values():
        for line in record.curve:
            if key in line and not record.diverged:
                found.setdefault(line['iteration'], []).append(line[key])
    return dict(sorted(found.items()))


def meeting_table(records: Sequence[Record]) -> str:
    """The first validation at which a setting's mean is where another one ends."""
    means = {
        name: {at: mean(found) for at, found in curve_of(records, 'core', name, MASK_AP).items()}
        for name in settings_of(CORE)
    }
    goals = [name for name in (TEN, BEST) if means[name]]
    rows = []
    for name, curve in means.items():
        if curve and goals:
            met = [verdicts.meeting(curve, means[goal][max(means[goal])]) for goal in goals]
            rows.append((name, max(curve), *('not reached' if one is None else one for one in met)))
    return grid(('setting', 'iterations', *(f'where {goal} ends' for goal in goals)), rows)


def steep_table(records: Sequence[Record]) -> str:
    """When 15x breaks."""
    reference = list(values(records, 'core', TEN, MASK_AP).values())
    rows = []
    steep = [('core', f'differential-{n}x', LOW * n) for n in (5, 10, 15)]
    steep += [
        ('steep', setting.name, 15 * float(setting.name.rpartition('-15x-')[2])) for setting in _cell('steep').settings
    ]
    for cell, name, rate in steep:
        found = by_seed(records, cell, name)
        if found and reference:
            mask_ap = list(values(records, cell, name, MASK_AP).values())
            lost = sum(record.diverged for record in found.values())
            broken = sum(one < mean(reference) / 2 for one in mask_ap)
            rows.append((f'{cell}: {name}', f'{rate:g}', len(found), lost, broken, spread(mask_ap)))
    return grid(('setting', "heads' rate", 'runs', 'diverged', 'broken', 'mask AP'), rows)


def _cell(name: str) -> Cell:
    return next(cell for cell in CELLS if cell.name == name)


@dataclass(frozen=True)
class Judged:
    """Runs whose loss shares mean what S4 means: ``shares`` of the mask loss at the end, and whether each is bad."""

    shares: list[float]
    bad: list[bool]


def judged(records: Sequence[Record]) -> Judged:
    """The counted runs with cross-entropy masks; good and bad by the best mean mask AP of their cell."""
    found = Judged([], [])
    for cell in CELLS:
        names = settings_of(cell)
        means = [mean(one) for name in names if (one := values(records, cell.name, name, MASK_AP).values())]
        for setting in cell.settings:
            for record in by_seed(records, cell.name, setting.name).values():
                if record.end_share is not None and not setting.name.startswith('gce'):
                    found.shares.append(record.end_share)
                    found.bad.append(verdicts.is_bad(record.value(MASK_AP), max(means)))
    return found


def thresholds(records: Sequence[Record]) -> dict[str, verdicts.Roc | None]:
    runs = judged(records)
    rules = {'below 20 %': (verdicts.LOW_SHARE, True), 'above 50 %': (verdicts.HIGH_SHARE, False)}
    return {name: verdicts.roc(runs.shares, runs.bad, *rule) for name, rule in rules.items()}


def roc_table(records: Sequence[Record]) -> str:
    runs = judged(records)
    if not runs.shares:
        return NOTHING
    counts = f'{len(runs.bad) - sum(runs.bad)} good runs, {sum(runs.bad)} bad ones'
    rows = [
        (name, f'{one.at[1]:.0%}', f'{one.at[0]:.0%}', number(one.area, 2))
        for name, one in thresholds(records).items()
        if one
    ]
    table = grid(('mask share at the end', 'bad runs named', 'good runs named', 'area under the curve'), rows)
    return f'{counts}.\n\n{table if rows else "A threshold can be judged by runs of both kinds only."}'


def filled(page: str, tables: Mapping[str, str]) -> str:
    """A page with each table between its markers.

    Raises:
        InputError: it has not the markers of a table, each once and in order.
    """
    for name, table in tables.items():
        begin, end = f'<!-- begin {name} -->', f'<!-- end {name} -->'
        pattern = re.compile(f'{re.escape(begin)}.*?{re.escape(end)}', re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise InputError(f'The page must have {begin} and {end} once, in this order; the table {name!r} stands between.')
        page = pattern.sub(lambda match, begin=begin, end=end, table=table: f'{begin}\n{table}\n{end}', page)
    return page


# ---- figures


def write_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the figures for which there are runs, and return the files."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context({'font.size': 8, 'savefig.dpi': 150, 'axes.spines.top': False, 'axes.spines.right': False}):
        for name, (_, draw) in FIGURES.items():
            drawn = draw(records)
            if drawn:
                written.append(folder / f'experiment_{name}.png')
                drawn.savefig(written[-1])
    return written


def figure_links(records: Sequence[Record]) -> str:
    there = [(name, caption) for name, (caption, draw) in FIGURES.items() if draw(records)]
    return '\n\n'.join(f'![{caption}](images/experiment_{name}.png)' for name, caption in there) or NOTHING


def _figure(columns: int, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * columns, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _style(place: int) -> dict[str, str]:
    return {'color': PALETTE[place % len(PALETTE)], 'linestyle': '-' if place < len(PALETTE) else '--'}


def _curves(records: Sequence[Record]):
    """Core: mean over the seeds, lowest to highest as a band."""
    names = [name for name in settings_of(CORE) if curve_of(records, 'core', name, MASK_AP)]
    if not names:
        return None
    figure, axes = _figure(3, 3.4)
    for axis, metric in zip(axes, ('box AP', 'mask AP', 'coverage'), strict=True):
        for place, name in enumerate(names):
            curve = curve_of(records, 'core', name, METRICS[metric])
            at, found = list(curve), list(curve.values())
            axis.plot(at, [mean(one) for one in found], label=name, linewidth=1.2, marker='.', **_style(place))
            axis.fill_between(at, list(map(min, found)), list(map(max, found)), color=_style(place)['color'], alpha=0.12)
        axis.set_title(metric, loc='left')
        axis.set_xlabel('iteration')
        axis.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=5, frameon=False)
    return figure


def _masks(records: Sequence[Record]):
    """Small or ragged: each run's coverage against its area ratio, and its boundary IoU."""
    cells = [cell for cell in CELLS if any(by_seed(records, cell.name, one.name) for one in cell.settings)]
    if not cells:
        return None
    figure, axes = _figure(2, 3.4)
    for axis, metric in zip(axes, ('area ratio', 'boundary IoU'), strict=True):
        for place, cell in enumerate(cells):
            runs = [one for setting in cell.settings for one in by_seed(records, cell.name, setting.name).values()]
            points = [(one.value(METRICS['coverage']), one.value(METRICS[metric])) for one in runs]
            points = [point for point in points if None not in point]
            marker = 'o' if place < len(PALETTE) else 's'
            x, y = ([point[i] for point in points] for i in (0, 1))
            axis.plot(x, y, marker, markersize=3, color=PALETTE[place % len(PALETTE)], label=cell.name)
        axis.axvline(verdicts.SMALL_COVERAGE, color='0.5', linestyle=':', linewidth=1)
        axis.set_xlabel('coverage')
        axis.set_ylabel(metric)
    axes[0].axhline(verdicts.SMALL_AREA, color='0.5', linestyle=':', linewidth=1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=4, frameon=False)
    return figure


def _shares(records: Sequence[Record]):
    """ROC of S4's two thresholds."""
    curves = {name: one for name, one in thresholds(records).items() if one}
    if not curves:
        return None
    figure, axes = _figure(1, 3.4)
    for place, (name, one) in enumerate(curves.items()):
        axes[0].plot(one.false_alarms, one.found, label=f'{name}: area {one.area:.2f}', **_style(place))
        axes[0].plot(*one.at, 'o', color=_style(place)['color'])
    axes[0].plot([0, 1], [0, 1], color='0.7', linestyle=':', linewidth=1)
    axes[0].set_xlabel('good runs named')
    axes[0].set_ylabel('bad runs named')
    axes[0].legend(frameon=False, title='mask share (point: threshold of S4)')
    return figure


# name: what it shows, and how it is drawn
FIGURES = {
    'curves': ('Core cell, validation part: mean over the seeds, lowest to highest as a band', _curves),
    'masks': ('Coverage of each counted run against its area ratio and boundary IoU; dotted: the limits of H0', _masks),
    'shares': ('How well a threshold on the mask share tells bad runs from good ones', _shares),
}
TABLES: dict[str, Callable[[Sequence[Record]], str]] = {
    'settings': settings_table,
    'missing': missing_table,
    'verdicts': verdict_table,
    'rates': rates_table,
    'levels': levels_table,
    'differences': differences_table,
    'masks': masks_table,
    'meeting': meeting_table,
    'steep': steep_table,
    'shares': roc_table,
    'figures': figure_links,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--page', type=Path, default=ROOT / 'docs/experiment.md')
    parser.add_argument('--images', type=Path, default=ROOT / 'docs/images')
    options = parser.parse_args()
    records = read_records(options.results)
    page = filled(options.page.read_text(encoding='utf-8'), {name: table(records) for name, table in TABLES.items()})
    options.page.write_text(page, encoding='utf-8')
    for path in [options.page, *write_figures(records, options.images)]:
        print(path)
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
