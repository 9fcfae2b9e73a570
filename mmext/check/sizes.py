"""How large the objects are where the network sees them: feature levels, anchors, limits, and what to change."""

import inspect
import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from rich.markup import escape
from rich.table import Table

from mmext.analysis.findings import Finding
from mmext.analysis.findings import to_record as finding_records
from mmext.check.anchors import AnchorHead, anchor_head, best_anchor_iou, better_anchors, build_generator
from mmext.check.instances import Instances, read_instances
from mmext.check.ledger import cases
from mmext.check.parts import DataPart
from mmext.data.coco_file import MEDIUM, SMALL
from mmext.errors import InputError
from mmext.heads import MinSizeRPNHead

_QUANTILES = (0.05, 0.5, 0.95)
# On made demo data and the droplets our recipes leave 0 to 0.3 % of the objects without an anchor; anchors twice too
# large leave 16 % and more. Between the two.
_WARN_ANCHORS = 0.05
# An RoI under two cells of the finest feature map is read from the same few values everywhere
_LEAST_CELLS = 2
_WARN_CELLS = 0.05
# as mmext.SmallObjectsHook
_WARN_MIN_SIZE = 0.01
# larger images cost time and memory by their square: beyond this tiles are the better advice
_MOST_ENLARGED = 4
# objects on which other anchors are tried; the share is then known to 0.4 points
_TRIED = 20_000


@dataclass(frozen=True)
class ClassSizes:
    """Objects of a class: ``side`` quantiles 5, 50 and 95 % of the square root of the area at the network's input in pixels;
    ``small``, ``medium`` and ``large`` as COCO counts them, in the original image; ``levels`` objects per level of the RoI
    extractor; ``anchor_iou`` median of the best anchor's IoU, and ``without_anchor`` objects that get none."""

    name: str
    objects: int
    side: tuple[float, ...]
    small: int
    medium: int
    large: int
    levels: tuple[int, ...]
    anchor_iou: float | None
    without_anchor: int | None


@dataclass(frozen=True)
class Sizes:
    """Sizes of a part's objects, the last row all classes; ``strides`` of the levels; ``least_iou`` under which an object
    gets no anchor; ``lines``: what does not apply to this model, and why."""

    part: str
    rows: tuple[ClassSizes, ...]
    strides: tuple[int, ...]
    least_iou: float | None
    lines: tuple[str, ...]
    findings: tuple[Finding, ...]

    def table(self) -> Table:
        """A row a class."""
        title = f'{self.part}: objects at the largest input of the network'
        table = Table(title=title, title_justify='left', caption='\n'.join(self.lines) or None, caption_justify='left')
        with_anchors = any(row.anchor_iou is not None for row in self.rows)
        table.add_column('class')
        headings = ['objects', 'side 5 / 50 / 95 %, px', 'small / medium / large %']
        headings += [f'stride {" / ".join(map(str, self.strides))} %'] if self.strides else []
        headings += ['best anchor IoU'] if with_anchors else []
        headings += [f'under {self.least_iou:g}'] if with_anchors and self.least_iou is not None else []
        for heading in headings:
            table.add_column(heading, justify='right')
        for row in self.rows:
            cells = [f'{row.objects:,}', ' / '.join(f'{side:.0f}' for side in row.side)]
            cells += [_percents((row.small, row.medium, row.large), row.objects)]
            cells += [_percents(row.levels, row.objects)] if self.strides else []
            cells += ['-' if row.anchor_iou is None else f'{row.anchor_iou:.2f}'] if with_anchors else []
            if with_anchors and self.least_iou is not None:
                cells.append(f'{row.without_anchor / row.objects:.1%}' if row.objects else '-')
            table.add_row(escape(row.name), *cells)
        return table

    def to_record(self) -> dict:
        """For JSON."""
        return {
            'part': self.part,
            'classes': [asdict(row) for row in self.rows],
            'strides': list(self.strides),
            'least_anchor_iou': self.least_iou,
            'lines': list(self.lines),
            'findings': finding_records(self.findings),
        }


def check_sizes(part: DataPart, cfg: Config, model: ConfigDict) -> Sizes:
    """Measure the objects that reach the loop at the scale of the part's pipeline, the largest of a scale that is drawn.

    Args:
        part: with its ``coco``.
        cfg: the config that it comes from.
        model: the model's config. Only its RoI extractor and anchor generator are built, which have no weights.

    Raises:
        InputError: a part of the config that cannot be built.
    """
    found = read_instances(part, cfg)
    boxes, kept = found.network_boxes()[found.reaching], np.flatnonzero(found.reaching)
    lines = []
    strides, levels = _roi_levels(model, boxes, lines)
    images = (found.image_sizes * found.network_scale())[found.reaching]
    head, ious = _anchors(model, images, boxes, lines)
    areas = found.areas * found.network_scale().prod(1)
    table = dict(
        sides=np.sqrt(np.maximum(areas, 0))[kept], areas=found.areas[kept], levels=levels, levels_of=len(strides), ious=ious
    )
    least = head.least_iou if head else None
    names = [category['name'] for category in part.coco.categories]
    chosen = [(name, found.names[kept] == name) for name in names]
    rows = [_row(name, mine, least, **table) for name, mine in chosen if mine.any()]
    rows += [_row('all', np.ones(len(kept), bool), least, **table)] if len(rows) != 1 else []
    findings = [
        # anchors are matched with objects in training alone
        *(_anchor_findings(part, found, boxes, images, head, ious) if part.name == 'train' else ()),
        *_cell_findings(part, found, boxes, strides),
        *_min_size_findings(part, found, model),
    ]
    return Sizes(part.name, tuple(rows), strides, least, tuple(lines), tuple(findings))


def _percents(counts: tuple[int, ...], total: int) -> str:
    return ' / '.join(f'{100 * count / total:.0f}' for count in counts) if total else '-'


def _row(name, mine, least, sides, areas, levels, levels_of, ious) -> ClassSizes:
    areas, count = areas[mine], int(mine.sum())
    small, medium = int((areas < SMALL).sum()), int(((areas >= SMALL) & (areas < MEDIUM)).sum())
    return ClassSizes(
        name,
        count,
        tuple(round(float(side), 1) for side in np.quantile(sides[mine], _QUANTILES)) if count else (),
        small,
        medium,
        count - small - medium,
        () if levels is None else tuple(np.bincount(levels[mine], minlength=levels_of).tolist()),
        round(float(np.median(ious[mine])), 3) if ious is not None and count else None,
        None if ious is None or least is None else int((ious[mine] < least).sum()),
    )


def _roi_levels(model: ConfigDict, boxes: np.ndarray, lines: list[str]) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Strides of the levels, and the level of each box by the RoI extractor's own rule."""
    extractor = (model.get('roi_head') or {}).get('bbox_roi_extractor')
    extractor = extractor[0] if isinstance(extractor, (list, tuple)) else extractor
    if not extractor:
        lines.append(f'{model.get("type")} has no RoIs, so no object is assigned to a level by its size.')
        return (), None
    try:
        built = MODELS.build(extractor)
    except Exception as error:  # whatever a setting of the person's config makes its code raise
        raise InputError(f'model.roi_head.bbox_roi_extractor cannot be built: {type(error).__name__}: {error}') from error
    if not hasattr(built, 'map_roi_levels'):
        lines.append(f'{extractor.type} reads all levels for each RoI, so no object is assigned to one.')
        return (), None
    strides = tuple(extractor.featmap_strides)
    rois = torch.from_numpy(np.concatenate([np.zeros((len(boxes), 1)), boxes], 1)).float()
    return strides, built.map_roi_levels(rois, len(strides)).numpy()


def _anchors(
    model: ConfigDict, images: np.ndarray, boxes: np.ndarray, lines: list[str]
) -> tuple[AnchorHead | None, np.ndarray | None]:
    """The head with anchors, and the IoU of each box with its best one."""
    head = anchor_head(model)
    if head is None:
        lines.append(f'{model.get("type")} has no anchors of fixed sizes to compare the objects with.')
        return None, None
    if head.least_iou is None:
        lines.append("The head's assigner is no MaxIoUAssigner, so no IoU is too low for an anchor.")
    return head, best_anchor_iou(boxes, images, build_generator(head.generator), head.allowed_border, head.divisor)


def _anchor_findings(part, found: Instances, boxes, images, head: AnchorHead | None, ious) -> list[Finding]:
    if head is None or head.least_iou is None or not len(ious):
        return []
    lost = ious < head.least_iou
    if lost.mean() <= _WARN_ANCHORS:
        return []
    wide, high = np.median((boxes[:, 2:] - boxes[:, :2])[lost], axis=0)
    text = (
        f'{lost.sum():,} of {len(lost):,} objects ({lost.mean():.1%}) have no anchor of IoU {head.least_iou:g} or more, '
        f"so {head.key} is taught none of them; their median box is {wide:.0f} x {high:.0f} px at the network's input."
    )
    chosen = np.arange(len(boxes))
    if len(boxes) > _TRIED:
        chosen = np.random.default_rng(0).choice(len(boxes), _TRIED, replace=False)
    found_line = better_anchors(boxes[chosen], images[chosen], head, _WARN_ANCHORS)
    remedy = 'Enlarge the images (scale of Resize) or cut them into tiles: no other size of anchors leaves fewer out.'
    if found_line and found_line[1] < lost.mean():
        remedy = f'{found_line[0]}  (leaves {found_line[1]:.1%} out)'
    places = np.flatnonzero(found.reaching)[lost]
    return [Finding('no-anchor-fits', 'warning', text, int(lost.sum()), cases(part, places), remedy, part.name)]


def _cell_findings(part, found: Instances, boxes, strides: tuple[int, ...]) -> list[Finding]:
    if not strides or not len(boxes):
        return []
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    limit = _LEAST_CELLS * min(strides)
    tiny = sides < limit
    if tiny.mean() <= _WARN_CELLS:
        return []
    text = (
        f"{tiny.sum():,} of {len(tiny):,} objects ({tiny.mean():.1%}) are under {limit} px at the network's input (square "
        f'root of the box), {_LEAST_CELLS} cells of the finest feature map: little is left to tell a shape from.'
    )
    # so large that no more than the allowed share stays under the limit, in quarters
    factor = math.ceil(4 * limit / max(float(np.quantile(sides, _WARN_CELLS)), 1e-9)) / 4
    places = np.flatnonzero(found.reaching)[tiny]
    remedy = _larger_images(part, found, factor)
    return [Finding('objects-too-small', 'warning', text, int(tiny.sum()), cases(part, places), remedy, part.name)]


def _larger_images(part: DataPart, found: Instances, factor: float) -> str:
    if factor > _MOST_ENLARGED:
        return (
            f'They need images {factor:g} times as large: cut the images into tiles, and let Resize enlarge each tile '
            'to the scale that it has now.'
        )
    cost = f'{factor:g} times as large, so about {factor**2:.2g} times the time and memory; the same in the other pipelines'
    for number, transform in enumerate(part.dataset.get('pipeline') or []):
        scale = transform.get('scale')
        if transform.type == 'Resize' and isinstance(scale, (tuple, list)) and all(isinstance(side, int) for side in scale):
            larger = tuple(round(side * factor) for side in scale)
            return f'{part.key}.pipeline.{number}.scale="({larger[0]},{larger[1]})"  ({cost})'
    now = (found.image_sizes * found.network_scale()).max(0)
    return f'Enlarge the scale in the pipelines, now up to {now[0]:.0f} x {now[1]:.0f} px ({cost}).'


def _min_size_findings(part, found: Instances, model: ConfigDict) -> list[Finding]:
    """Objects under the limits that a config sets on proposals of this part, counted as mmext.SmallObjectsHook counts."""
    boxes = found.boxes * np.tile(found.network_scale(), 2)
    sides = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)[found.reaching]
    findings = []
    for code, limit, itself, what, remedy in _limits(model, part.name):
        small = sides <= limit if itself else sides < limit
        if not small.any():
            continue
        text = (
            f'{small.sum():,} of {len(small):,} objects ({small.mean():.1%}) have a side '
            f"{'of at most' if itself else 'under'} {limit:g} px at the network's input: {what}."
        )
        severity = 'warning' if small.mean() > _WARN_MIN_SIZE else 'information'
        places = np.flatnonzero(found.reaching)[small]
        findings.append(Finding(code, severity, text, int(small.sum()), cases(part, places), remedy, part.name))
    return findings


def _limits(model: ConfigDict, part: str) -> list[tuple[str, float, bool, str, str]]:
    """Of training, or else of prediction: code, limit in pixels, whether the limit itself is too small, what it does, and
    the line that lifts it."""
    found = []
    head = model.get('rpn_head') or {}
    ours = str(head.get('type')).rpartition('.')[2] == MinSizeRPNHead.__name__
    if part == 'train' and ours and head.get('filter_by', 'gt') == 'gt':
        usual = inspect.signature(MinSizeRPNHead).parameters['min_size'].default
        what = 'the RPN is taught no proposal for them, so most will never be found'
        found.append(('under-min-size', head.get('min_size', usual), False, what, 'model.rpn_head.min_size=0'))
    stage, key = ('train_cfg', 'rpn_proposal') if part == 'train' else ('test_cfg', 'rpn')
    limit = ((model.get(stage) or {}).get(key) or {}).get('min_bbox_size', -1)
    if limit > 0:
        path = f'model.{stage}.{key}.min_bbox_size'
        found.append(('under-min-bbox-size', limit, True, f'{path} drops proposals of their size', f'{path}=0'))
    return found
