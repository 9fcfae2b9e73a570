"""Two runs on the same validation images: is their difference noise, and what got better, what worse? No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmext.analysis.bootstrap import CANNOT_BE_TOLD, LEAST_IMAGES, RESAMPLES, Difference, over_images, resampled
from mmext.analysis.changes import ImageChange, most_changed
from mmext.analysis.coco_ap import KINDS, NUMBERS, Matches, average_precision, match_predictions, mean_of, truth_of
from mmext.analysis.predictions import FILES, Predictions, file_hash, read_predictions
from mmext.data.coco_file import read_coco
from mmext.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One number of both runs.

    ``kind``: ``'bbox'`` or ``'segm'``; ``metric``: of coco_ap.NUMBERS; ``part``: a class, None for all of them; ``objects``
    and ``images`` that it is of; ``first``, ``second``: None without an object; ``difference``: None where there are too few
    images for a verdict.
    """

    kind: str
    metric: str
    part: str | None
    objects: int
    images: int
    first: float | None
    second: float | None
    difference: Difference | None

    @property
    def name(self) -> str:
        return f'{KINDS[self.kind]} {self.metric}' + (f', {self.part}' if self.part is not None else '')


@dataclass(frozen=True)
class Comparison:
    """Two runs by the predictions of one validation each. ``rows``: mask AP, or box AP, first; it is the verdict's.

    ``which``: ``'best'`` or ``'last'`` validation; ``epochs`` of both; ``changed``: the images that changed most, by the
    first row's metric. ``problem``: why there is no comparison, in words; everything else is empty then.
    """

    names: tuple[str, str]
    which: str | None = None
    epochs: tuple[int, int] | None = None
    images: int = 0
    resamples: int = 0
    rows: tuple[Row, ...] = ()
    changed: tuple[ImageChange, ...] = ()
    problem: str | None = None

    @property
    def verdict(self) -> str | None:
        """``'better'``, ``'worse'`` or ``'cannot be told apart'``: of the second run; None where there is no verdict."""
        difference = self.rows[0].difference if self.rows else None
        return difference.verdict if difference else None

    def to_lines(self) -> list[str]:
        """The verdict in words."""
        if self.problem:
            return [f'Whether the difference is noise cannot be said: {self.problem}']
        row, (first, second) = self.rows[0], self.names
        one, other = (f' (epoch {epoch})' if epoch else '' for epoch in self.epochs)  # 0 in a training by iterations
        values = f'{_number(row.first)} for {first}{one}, {_number(row.second)} for {second}{other}'
        lines = [f'{row.name} of the {self.which} validation: {values}. {self._words(row)}']
        if row.difference:
            lines.append(
                "That is the images' noise: what another draw of as many validation images would change. The seed's is not "
                'in it: train each with several seeds, and compare over them.'
            )
        return lines

    def _words(self, row: Row) -> str:
        difference, second = row.difference, self.names[1]
        if difference is None:
            return (
                f'There is no verdict: {row.images} validation images with objects are too few, it takes {LEAST_IMAGES} at '
                'least.'
            )
        if difference.error == 0 and difference.value == 0:
            return f'They are the same on all {self.images} images.'
        span = f'difference {difference.value:+.3f}, 95 % interval {difference.low:+.3f} to {difference.high:+.3f}'
        if difference.verdict != CANNOT_BE_TOLD:
            return f'{second} is {difference.verdict}: {span}, {self.images} images.'
        return f'They cannot be told apart with {self.images} images: {span}. {needed_words(difference)}'

    def to_record(self) -> dict:
        """The machine-readable form."""
        return {
            'schema_version': SCHEMA_VERSION,
            'verdict': self.verdict,
            'noise': 'images',
            **asdict(self),
            'rows': [{**asdict(row), 'verdict': row.difference.verdict if row.difference else None} for row in self.rows],
        }


def needed_words(difference: Difference) -> str:
    """How many images, seeds or folds would tell, and what so many do tell."""
    noise, least = difference.noise, difference.detectable
    if difference.needed is None:
        much = f'A difference as small as this takes more than a hundred times as many {noise}'
    else:
        much = f'To tell a difference of this size takes about {_rounded(difference.needed)} {noise}'
    return f'{much}; {difference.number} tell one of {least:.3f} or more (in four of five cases).'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


def _rounded(number: int) -> str:
    """With two digits: the forecast is not better than that."""
    return f'{float(f"{number:.2g}"):,.0f}'


def compare_predictions(
    first: Path | Sequence[Path],
    second: Path | Sequence[Path],
    names: tuple[str, str] | None = None,
    ann_file: str | Path | None = None,
    which: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two runs by the predictions that mmext.PredictionsHook has kept of them.

    Args:
        first, second: a work_dir each, or the folders of its starts, oldest first.
        names: of the runs; those of the folders when None.
        ann_file: where the annotation file lies now, if elsewhere than at the time of the training.
        which: ``'best'`` or ``'last'`` validation; None takes the best where both have one.

    Returns:
        A comparison; never raises for what is wrong with the files: that stands in ``problem``.
    """
    sides = [_starts(side) for side in (first, second)]
    names = names or tuple(_name(side) for side in (first, second))
    try:
        which, kept = _both(sides, names, which)
        _same_images(kept, names)
        truth = truth_of(read_coco(annotation_file(kept[0], ann_file)), kept[0].about['image_ids'], kept[0].about['classes'])
        kinds = [
            kind
            for kind in ('segm', 'bbox')
            if kind == 'bbox' or (truth.outlined and all(one.rles is not None for one in kept))
        ]
        matched = {kind: tuple(match_predictions(truth, one, kind) for one in kept) for kind in kinds}
    except InputError as error:
        return Comparison(names, problem=str(error))
    images = len(truth.image_ids)
    weights = resampled(images, resamples, seed)
    rows, draws = [], None
    for kind, pair in matched.items():
        points, drawn = ([average_precision(one, each) for one in pair] for each in (None, weights))
        draws = drawn if draws is None else draws
        rows += _rows(kind, pair[0], points, drawn)
    apart = mean_of(draws[1][:, 0]) - mean_of(draws[0][:, 0])
    changed = most_changed(*matched[kinds[0]], truth, weights, apart)
    epochs = tuple(int(one.about['epoch']) for one in kept)
    return Comparison(names, which, epochs, images, resamples, tuple(rows), tuple(changed))


def _rows(kind: str, matches: Matches, points: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> Iterator[Row]:
    """COCO's numbers over all classes, then the AP of each class."""
    every = slice(None)
    cells = [(metric, None, area, levels, every) for metric, (area, levels) in NUMBERS.items()]
    cells += [('AP', name, 0, every, slice(k, k + 1)) for k, name in enumerate(matches.classes)]
    positives = np.stack([one.positives for one in matches.by_class], 1)  # (A, classes, I)
    for metric, part, area, levels, classes in cells:
        there = positives[area, classes].sum(0)
        first, second = (float(mean_of(one[:, area, levels, classes])[0]) for one in points)
        apart = np.subtract(*(mean_of(one[:, area, levels, classes]) for one in reversed(drawn)))
        difference = over_images(second - first, apart, matches.images, int((there > 0).sum()))
        values = (None if np.isnan(value) else value for value in (first, second))
        yield Row(kind, metric, part, int(there.sum()), int((there > 0).sum()), *values, difference)


def _starts(side: Path | Sequence[Path]) -> list[Path]:
    if not isinstance(side, (str, Path)):
        return [Path(start) for start in side]
    return sorted({path.parent for name in FILES.values() for path in Path(side).glob(f'*/{name}')})


def _name(side: Path | Sequence[Path]) -> str:
    return Path(side).name if isinstance(side, (str, Path)) else Path(side[-1]).parent.name


def kept_predictions(starts: Sequence[Path], which: str) -> Predictions | None:
    """The best or the last predictions of a run, None without any. A resumed start takes the place of what it repeats.

    Raises:
        InputError: the file is broken.
    """
    begun = np.inf
    for start in reversed(starts):
        paths = {name: Path(start, file) for name, file in FILES.items()}
        if paths[which].is_file():
            found = read_predictions(paths[which])
            # the newest best is better than those before it, unless it was made of what a resume has thrown away
            if found.about['iteration'] <= begun:
                return found
        if paths['last'].is_file():
            begun = min(begun, read_predictions(paths['last']).about['begin'])
    return None


def _both(
    sides: Sequence[Sequence[Path]], names: Sequence[str], which: str | None
) -> tuple[str, tuple[Predictions, Predictions]]:
    for one in (which,) if which else ('best', 'last'):
        kept = [kept_predictions(starts, one) for starts in sides]
        if all(kept):
            return one, tuple(kept)
    without = [name for name, one in zip(names, kept, strict=True) if not one]
    raise InputError(
        f'no predictions of the {which or "last"} validation were kept of {" and ".join(without)}. '
        "default_hooks = dict(predictions=dict(type='mmext.PredictionsHook')) keeps them, with stock MMDetection too."
    )


def _same_images(kept: Sequence[Predictions], names: Sequence[str]) -> None:
    first, second = ({**one.about, 'image_ids': set(one.about['image_ids'])} for one in kept)
    for key, what in (('sha256', 'annotation files'), ('classes', 'classes'), ('image_ids', 'images')):
        if first[key] != second[key]:
            words = f': {first["ann_file"]} and {second["ann_file"]}' if key == 'sha256' else ''
            raise InputError(
                f'{names[0]} and {names[1]} were validated with different {what}{words}. Validate both with the same.'
            )


def annotation_file(kept: Predictions, given: str | Path | None = None) -> Path:
    """The annotation file that predictions were validated with.

    Args:
        given: where it lies now, if elsewhere than at the time of the training.

    Raises:
        InputError: it cannot be read, or has changed since.
    """
    path = Path(given or kept.about['ann_file'])
    try:
        same = file_hash(path) == kept.about['sha256']
    except OSError as error:
        raise InputError(
            f'the annotation file of the validation, {path}, cannot be read: {error.strerror}. Say where it lies now.'
        ) from None
    if not same:
        raise InputError(f'{path} has changed since the validation. Give the file of that time, or validate both again.')
    return path
