"""What the figures show, as plain numbers: the page and the picture files draw the same. No torch, no plotting."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmext.analysis.digest import Digest
from mmext.analysis.shares import FAMILIES, bands_hold, by_family, shares

# so many runs have curves: twenty colours with dashes can be told apart
MOST_RUNS = 20
# of a curve so many points are shown, at an even distance
_MOST_POINTS = 500
# and of what is no number so many, the first and the last among them
_MOST_BROKEN = 30
# labels of a log axis: with 2 and 5 between the powers of ten up to so many decades; the most of them
_FEW_DECADES, _MOST_TICKS = 2, 8
# the order in which families and parts are shown
_FAMILIES = tuple(dict.fromkeys(FAMILIES.values()))
_PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')
_WORDS = {
    'mask': 'mask loss',
    'cls': 'class loss',
    'bbox': 'box loss',
    'rpn_cls': 'RPN class loss',
    'rpn_bbox': 'RPN box loss',
}
_METRICS = {
    'coco/segm_mAP': 'mask AP',
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP_50': 'mask AP50',
    'coco/segm_mAP_75': 'mask AP75',
    'mask/iou': 'mask IoU',
    'mask/coverage': 'coverage',
}
# S4: a mask share below is undertrained, above struggling
MASK_BAND = (0.2, 0.5)

LINEAR, LOG, SHARE = 'linear', 'log', 'share'
TRAIN, VAL = 'train', 'val'


@dataclass(frozen=True)
class Line:
    """A curve: ``x`` in iterations, ``y`` with None where the log has no number.

    ``run``: place of its run; ``name``: what it is of (family, part or metric); ``kind``: ``'train'`` or ``'val'``;
    ``broken``: iterations at which the log has NaN or infinity, of many some at an even distance.
    """

    run: int
    name: str
    kind: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    broken: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One plot. ``run``: the run that it is of, and its lines have the colours of their names; None when it is of all runs,
    and its lines have the colours of these. ``scale`` of y; ``stacked``: lines are areas on each other; ``band``: of the
    lowest one, from, to; ``marks``: iteration and words of vertical lines."""

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    scale: str = LINEAR
    run: int | None = None
    stacked: bool = False
    band: tuple[float, float] | None = None
    marks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """Plots that belong together; ``note`` says how to read them, ``legend`` has the names of lines in panels of one run."""

    key: str
    title: str
    note: str
    panels: tuple[Panel, ...]
    legend: tuple[str, ...] = ()


def sections(runs: Sequence[Digest]) -> list[Section]:
    """The figures of runs that were read with their curves; a section without anything to show is left out."""
    runs = list(runs)[:MOST_RUNS]
    found = [_metrics(runs), _losses(runs), _shares(runs), _rates(runs)]
    return [section for section in found if section.panels]


def _metrics(runs: Sequence[Digest]) -> Section:
    panels = []
    for key, words in _METRICS.items():
        lines = (_line(i, words, VAL, _val_pairs(run, key)) for i, run in enumerate(runs))
        panels.append(Panel(f'metric-{key}', words, words, _some(lines)))
    note = 'A point is a validation. The best of many is high by chance too, so look at where a curve stands.'
    if any('mask/' in panel.key for panel in panels if panel.lines):
        note += ' Mask IoU and coverage (|prediction ∩ truth| ÷ |truth|) are means over the objects that were found.'
    return Section('ap', 'Average precision and mask quality', note, _filled(panels))


def _losses(runs: Sequence[Digest]) -> Section:
    trained = [[(x, {**by_family(line), 'total': line.get('loss')}) for x, line in _steps(run)] for run in runs]
    validated = [
        [(x, {**by_family(_val_losses(line)), 'total': line.get('val_loss')}) for x, line in _validations(run)]
        for run in runs
    ]
    names = _ordered((name for of_run in trained for _, line in of_run for name in line), ('total', *_FAMILIES))
    panels = []
    for name in names:
        lines = []
        for i in range(len(runs)):
            for kind, table in ((TRAIN, trained[i]), (VAL, validated[i])):
                lines.append(_line(i, name, kind, [(x, line.get(name)) for x, line in table]))
        title = 'total loss' if name == 'total' else _WORDS.get(name, f'{name} loss')
        panels.append(Panel(f'loss-{name}', title, 'loss', _some(lines)))
    note = 'Lines: training, each point the mean of the last iterations of its log line. Points: validation, never smoothed.'
    if not any(line.kind == VAL for panel in panels for line in panel.lines):
        note = 'Training, each point the mean of the last iterations of its log line. No validation loss was logged.'
    return Section('losses', 'Losses by family: training and validation', note, _filled(panels))


def _shares(runs: Sequence[Digest]) -> Section:
    panels, every, shaded = [], [], False
    for i, run in enumerate(runs):
        table = [(x, parts) for x, line in _steps(run) if (parts := shares(line))]
        names = _ordered((name for _, parts in table for name in parts), _FAMILIES)
        every += names
        lines = [_line(i, name, TRAIN, [(x, parts.get(name, 0.0)) for x, parts in table]) for name in names]
        band = MASK_BAND if table and _band_of(run) else None
        shaded |= band is not None
        panels.append(Panel(f'share-{i}', run.name, 'share of the total', _some(lines), SHARE, i, True, band, _stages(run)))
    note = 'What part of the total each loss is, as optimised.'
    if shaded:
        low, high = MASK_BAND
        note += (
            f' In the paler band, {low:.0%} to {high:.0%}, the upper edge of the mask share is said to end. Above it masks '
            'struggle; below it good masks lie as often as undertrained ones. It is for orientation, and for Mask R-CNN '
            'with cross-entropy masks and weights of 1.'
        )
    return Section('shares', 'Shares of the total loss', note, _filled(panels), tuple(_ordered(every, _FAMILIES)))


def _rates(runs: Sequence[Digest]) -> Section:
    panels, every, frozen = [], [], False
    for i, run in enumerate(runs):
        table = [(x, _rates_of(line)) for x, line in _steps(run)]
        names = _ordered((name for _, rates in table for name in rates), _PARTS)
        every += names
        frozen |= any(rate == 0 for _, rates in table for rate in rates.values())
        lines = [
            _line(i, name, TRAIN, [(x, rates.get(name) if rates.get(name, 0) > 0 else None) for x, rates in table])
            for name in names
        ]
        panels.append(Panel(f'rate-{i}', run.name, 'learning rate', _some(lines), LOG, i, marks=_stages(run)))
    note = 'Learning rate of each part of the network, on a log axis.'
    if any(panel.marks for panel in panels):
        note += ' Vertical lines: a stage begins.'
    if frozen:
        note += ' A rate of 0 has no place on a log axis: the line breaks off.'
    return Section('rates', 'Learning rates by part', note, _filled(panels), tuple(_ordered(every, _PARTS)))


# ---- from log lines


def _steps(run: Digest) -> list[tuple[float, Mapping[str, float]]]:
    """Iteration and log line of the training, thinned to an even distance; what is no number is always kept."""
    lines = [(line.get('step', line.get('iter', place)), line) for place, line in enumerate(run.train)]
    every = max(1, math.ceil(len(lines) / _MOST_POINTS))
    last = len(lines) - 1
    return [
        (x, line)
        for place, (x, line) in enumerate(lines)
        if math.isfinite(x) and (place % every == 0 or place == last or not math.isfinite(line.get('loss', 0.0)))
    ]


def _validations(run: Digest) -> list[tuple[float, Mapping[str, float]]]:
    """Iteration and line of each validation. Stock counts them in epochs: those stand at the last iteration of the epoch."""
    ends: dict[float, float] = {}
    for line in run.train:
        if 'epoch' in line and 'step' in line:
            ends[line['epoch']] = max(line['step'], ends.get(line['epoch'], 0))
    by_epoch = bool(ends) and all(line.get('step', 0) <= max(ends) for line in run.val)

    def place(line: Mapping[str, float]) -> float | None:
        if not by_epoch:
            return line.get('step')
        return max((end for epoch, end in ends.items() if epoch <= line.get('epoch', 0)), default=None)

    found = [(x, line) for line in run.val if (x := place(line)) is not None and math.isfinite(x)]
    return sorted(found, key=lambda pair: pair[0])


def _val_pairs(run: Digest, key: str) -> list[tuple[float, float | None]]:
    """Iteration and value of a metric; COCO's -1, which says that there is no such object, is left out."""
    return [(x, line[key]) for x, line in _validations(run) if key in line and line[key] != -1]


def _val_losses(line: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix('val_'): value for name, value in line.items() if name.startswith('val_loss_')}


def _rates_of(line: Mapping[str, float]) -> dict[str, float]:
    """Rate of each part; of a run without named groups the one rate that it logs."""
    rates = {name.removesuffix('_lr'): value for name, value in line.items() if name.endswith('_lr') and name != 'base_lr'}
    whole = line.get('base_lr', line.get('lr'))
    return rates or ({} if whole is None else {'all parts': whole})


def _stages(run: Digest) -> tuple[tuple[float, str], ...]:
    """Iteration and name of each stage after the first."""
    before, found = None, []
    for x, line in _steps(run):
        stage = line.get('stage')
        if stage is not None and before is not None and stage != before:
            found.append((x, f'stage {stage:g}'))
        before = stage if stage is not None else before
    return tuple(found)


def _band_of(run: Digest) -> bool:
    """Whether S4's band can be set beside the shares of a run."""
    from mmext.analysis.facts import loss_weights  # inside: it needs NumPy

    kind = run.config.get('model.roi_head.mask_head.loss_mask.type')
    kind = kind.rpartition('.')[2] if isinstance(kind, str) else ''
    losses = {name: value for name, value in run.last.items() if 'loss' in name}
    return bands_hold(losses, loss_weights(run.config), kind)


# ---- lines


def _line(run: int, name: str, kind: str, pairs: Iterable[tuple[float, float | None]]) -> Line:
    pairs = [(x, y) for x, y in pairs]
    broken = [x for x, y in pairs if y is not None and not math.isfinite(y)]
    every = math.ceil(len(broken) / _MOST_BROKEN) or 1
    broken = tuple(x for i, x in enumerate(broken) if i % every == 0 or i == len(broken) - 1)
    y = tuple(None if y is None or not math.isfinite(y) else _rounded(y) for _, y in pairs)
    return Line(run, name, kind, tuple(x for x, _ in pairs), y, broken)


def _rounded(value: float) -> float:
    """Five digits: more than a screen shows, and half the size of the file."""
    return float(f'{value:.5g}')


def _some(lines: Iterable[Line]) -> tuple[Line, ...]:
    return tuple(line for line in lines if line.broken or any(y is not None for y in line.y))


def _filled(panels: Iterable[Panel]) -> tuple[Panel, ...]:
    return tuple(panel for panel in panels if panel.lines)


def _ordered(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """Each name once: those of ``first`` in its order, then the others as they come."""
    there = list(dict.fromkeys(names))
    return [name for name in first if name in there] + [name for name in there if name not in first]


def log_ticks(panel: Panel) -> dict[float, str]:
    """Where a log axis has its labels, and these: powers of ten with 2 and 5 times these where there are few; on a narrow
    axis every digit, and on a narrower one the ends."""
    values = [y for line in panel.lines for y in line.y if y]
    if not values:
        return {}
    least, most = min(values), max(values)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    every = math.ceil((high - low) / _MOST_TICKS) or 1
    if most < 1.5 * least:
        ticks = [least, most]
    else:
        steps = range(1, 10) if most < 5 * least else (1, 2, 5) if high - low <= _FEW_DECADES else (1,)
        ticks = [step * 10.0**power for power in range(low, high + 1, every) for step in steps]
    return {_rounded(tick): _power(tick) for tick in ticks}


def _power(value: float) -> str:
    """``5e-4``, ``1.3e-3``."""
    number, _, power = f'{value:.1e}'.partition('e')
    return f'{number.removesuffix(".0")}e{int(power)}'


def words_of(name: str) -> str:
    """A family or a part as people say it: ``rpn_cls`` is ``RPN class``."""
    return _WORDS[name].removesuffix(' loss') if name in _WORDS else name.replace('_', ' ')
