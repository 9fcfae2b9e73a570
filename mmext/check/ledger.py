"""Where the annotations of a data set go: how many reach the training loop, and what drops each of the others."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from mmengine.config import Config
from rich.table import Table

from mmext.analysis.findings import Finding, first
from mmext.analysis.findings import to_record as finding_records
from mmext.check.instances import REACHES, REASONS, Instances, class_names, read_instances
from mmext.check.parts import DataPart
from mmext.errors import did_you_mean, some

# the share at which mmext.SmallObjectsHook warns as well: more objects than this is no small loss
_WARN_ABOVE = 0.01
# at the network's input: less is no pixel of the mask
_LEAST_SIDE = 1.0
_UNUSABLE = 'no image, category, box or id of its own: see the findings about the file'

# Severity of what is lost whatever its share; the others warn above _WARN_ABOVE and are information below it. Crowds are
# counted here and judged by mmext.check.traps.
_SEVERITIES = {
    'no-mask': 'severe',
    'rle-ignored': 'warning',
    'marked-ignore': 'information',
    'not-in-indices': 'information',
}
_REMEDIES = {
    'class-not-in-config': 'Add it to metainfo.classes and num_classes, or correct the name.',
    'marked-ignore': 'Remove "ignore" from these annotations when they are objects to learn.',
    'box-outside-image': 'Correct bbox (x, y, width, height in pixels) and the image sizes in the file.',
    'box-too-small': 'Write area and bbox (x, y, width, height in pixels) for each; annotate no specks under 1 px.',
    'image-too-small': '{key}.filter_cfg.min_size=0',
    'not-in-indices': '{key}.indices=None',
    'no-mask': 'Export these annotations with polygons or RLE of the size of their image, or remove them.',
    'rle-ignored': "dict(type='mmext.LoadInstanceMasks') in the place of LoadAnnotations, or poly2mask=True.",
    'outline-ignored': 'Export these annotations again, with polygons of three points or more.',
    'filtered': 'Lower min_gt_bbox_wh of FilterAnnotations, or enlarge the images in Resize.',
}


@dataclass(frozen=True)
class Ledger:
    """Of ``total`` annotations of a part ``reaching`` come out of its pipeline as objects; ``dropped`` says by reason how
    many do not, ``unusable`` are those among ``total`` that lack what every reader needs. ``images`` of the file and
    ``images_kept`` by the data set; ``classes``: name to (annotations, reaching); ``not_counted``: what may drop more and
    cannot be told from annotations."""

    part: str
    total: int
    reaching: int
    dropped: dict[str, int]
    images: int
    images_kept: int
    classes: dict[str, tuple[int, int]]
    not_counted: tuple[str, ...]
    unusable: int
    findings: tuple[Finding, ...]

    def table(self) -> Table:
        """Reason, annotations and share."""
        title = f'{self.part}: {self.total:,} annotations of {self.images:,} images, {self.images_kept:,} of them kept'
        table = Table(title=title, title_justify='left', caption='\n'.join(self.not_counted) or None, caption_justify='left')
        table.add_column('what becomes of them')
        for heading in ('annotations', 'share'):
            table.add_column(heading, justify='right')
        rows = [('reach the loop', self.reaching), *((REASONS[name], n) for name, n in self.dropped.items())]
        rows += [(_UNUSABLE, self.unusable)] if self.unusable else []
        for words, count in rows:
            table.add_row(words, f'{count:,}', f'{count / self.total:.1%}' if self.total else '-')
        return table

    def to_record(self) -> dict:
        """For JSON."""
        return {
            'part': self.part,
            'annotations': self.total,
            'reaching': self.reaching,
            'dropped': self.dropped,
            'unusable': self.unusable,
            'images': self.images,
            'images_kept': self.images_kept,
            'classes': {name: {'annotations': n, 'reaching': left} for name, (n, left) in self.classes.items()},
            'not_counted': list(self.not_counted),
            'findings': finding_records(self.findings),
        }


def ledger(part: DataPart, cfg: Config) -> Ledger:
    """Account for every annotation of a part.

    Args:
        part: with its ``coco``; its entries are those that can be used.
        cfg: the config that it comes from.

    Raises:
        InputError: a data set or a transform of the config cannot be built.
    """
    found = read_instances(part, cfg)
    counts = Counter(found.fates.tolist())
    dropped = {name: counts[code] for code, name in enumerate(REASONS) if counts[code]}
    classes = class_names(part)
    total, left = Counter(found.names.tolist()), Counter(found.names[found.reaching].tolist())
    by_class = {name: (total[name], left[name]) for name in dict.fromkeys([*classes, *total])}
    return Ledger(
        part.name,
        len(found.fates) + part.coco.unusable,
        counts[REACHES],
        dropped,
        len(part.coco.images),
        len(found.images),
        by_class,
        found.not_counted,
        part.coco.unusable,
        (*_lost_classes(part, found, classes), *_losses(part, found, classes), *_vanishing(part, found)),
    )


def cases(part: DataPart, places: Iterable[int]) -> tuple[str, ...]:
    """Up to five annotations by id, with their image."""
    files = {image['id']: image['file_name'] for image in part.coco.images}
    chosen = (part.coco.annotations[place] for place in places)
    return first(f'annotation {a["id"]} (image {a["image_id"]}, {files[a["image_id"]]})' for a in chosen)


def _use(part: DataPart) -> str:
    return 'train on' if part.name == 'train' else 'validate on'


def _lost_classes(part: DataPart, found: Instances, classes: tuple[str, ...]) -> list[Finding]:
    """Classes of which nothing is left; one that is mostly crowd is mmext.check.traps' to name."""
    findings = []
    for name in classes:
        mine = found.names == name
        fates = Counter(found.fates[mine].tolist())
        why, most = next(((list(REASONS)[code], n) for code, n in fates.most_common(1) if code != REACHES), (None, 0))
        if fates[REACHES] or (why == 'crowd' and most > mine.sum() / 2):
            continue
        in_file = [category['name'] for category in part.coco.categories]
        if name not in in_file:
            reason = f'the file has no such category ({some(in_file) or "none at all"})'
            hint = (
                f"{did_you_mean(name, [n for n in in_file if n not in classes])}metainfo.classes must have the file's names."
            )
        elif not mine.any():
            reason, hint = 'no annotation has it', 'Annotate it, or take it out of metainfo.classes of both data sets.'
        else:
            reason, hint = f'{most:,} of its {mine.sum():,} annotations: {REASONS[why]}', _REMEDIES.get(why)
        # without a mistake in the file, a class that is only missing in validation spoils no training
        severity = 'warning' if part.name != 'train' and not mine.any() and name in in_file else 'severe'
        text = f'Class {name!r} has nothing to {_use(part)}: {reason}.'
        findings.append(
            Finding(
                'class-without-objects', severity, text, 1, cases(part, np.flatnonzero(mine)), _fill(hint, part), part.name
            )
        )
    return findings


def _losses(part: DataPart, found: Instances, classes: tuple[str, ...]) -> list[Finding]:
    findings = []
    for code, (name, words) in enumerate(REASONS.items()):
        places = np.flatnonzero(found.fates == code)
        if not len(places) or name == 'crowd':
            continue
        share = len(places) / len(found.fates)
        severity = _SEVERITIES.get(name, 'warning' if share > _WARN_ABOVE else 'information')
        text = f'{len(places):,} of {len(found.fates):,} annotations ({share:.1%}) do not reach the loop: {words}'
        remedy = _fill(_REMEDIES[name], part)
        if name == 'class-not-in-config':
            lost = Counter(found.names[places].tolist())
            text += f' ({some(f"{category}: {count:,}" for category, count in lost.items())})'
            remedy = did_you_mean(next(iter(lost)), [c for c in classes if not (found.names == c).any()]) + remedy
        findings.append(Finding(name, severity, f'{text}.', len(places), cases(part, places), remedy, part.name))
    return findings


def _vanishing(part: DataPart, found: Instances) -> list[Finding]:
    """Objects that reach the loop with nothing to see."""
    boxes = found.network_boxes()
    thin = found.reaching & ((boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) < _LEAST_SIDE)
    if not thin.any():
        return []
    share = thin.sum() / found.reaching.sum()
    severity = 'warning' if share > _WARN_ABOVE else 'information'
    text = (
        f'{thin.sum():,} of {found.reaching.sum():,} objects ({share:.1%}) have a side under {_LEAST_SIDE:g} px after the '
        'resize, so their mask is empty or nearly so.'
    )
    remedy = 'Enlarge the scale of Resize in the pipelines, or cut the images into tiles.'
    places = np.flatnonzero(thin)
    return [Finding('empty-after-resize', severity, text, len(places), cases(part, places), remedy, part.name)]


def _fill(remedy: str | None, part: DataPart) -> str | None:
    return remedy and remedy.replace('{key}', part.key)
