"""The best mask IoU that a mask grid allows, from ground truth alone, by the code that training and prediction use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import PolygonMasks
from mmdet.structures.mask.mask_target import mask_target_single
from mmengine.config import Config, ConfigDict
from pycocotools import mask as coco_mask
from rich.markup import escape
from rich.table import Table
from torch.nn.modules.utils import _pair

from mmext import recipes
from mmext.analysis.findings import Finding, to_record
from mmext.analysis.input_size import input_size
from mmext.analysis.mask_window import draw, to_rle
from mmext.check.instances import Instances, class_names, read_instances
from mmext.check.parts import DataPart
from mmext.data.mask_shapes import sound_masks
from mmext.structures import WindowMasks
from mmext.transforms import LoadInstanceMasks

GRIDS = (14, 28, 56, 112)
# No class gives more instances than the first, all together not more than the second: an instance takes 3 ms. With 600 a
# class the standard error of the mean is 0.003 for the thin fibers of the demo at 28x28, whose IoU scatters by 0.07.
_PER_CLASS, _ALTOGETHER, _LEAST = 2000, 1800, 20
# Pixels that are pasted for all classes together, so that a file of huge objects takes no longer than one of small ones.
_PIXELS, _FEWEST = 60_000_000, 5
# COCO's strict threshold (AP75): below it even a perfect mask of the average object is a false detection there.
_POOR = 0.75
# Between this and 1 another grid is not worth its cost: every threshold of COCO's AP up to 0.9 can still be reached.
_GOOD = 0.9
# S2's ablation on COCO: a grid twice as fine won 2.9 and 0.7 points of mask AP. Less than this is not seen in an AP.
_WORTH = 0.03
# polygons cannot have soft targets, so the pipeline has to draw them
_SOFT_TRIED = 100  # of a class's sample; drawing them costs more
_SOFT = 'model.train_cfg.rcnn.soft_mask_target=True, with mmext.LoadInstanceMasks(polygons=False) in both pipelines'
_THRESHOLDS = np.arange(0.5, 0.951, 0.05)  # of COCO's AP


@dataclass(frozen=True)
class ClassCeiling:
    """One class: how many instances it has and how many were tried; per grid (height, width) the IoU of each of these."""

    name: str
    instances: int
    ious: Mapping[tuple[int, int], np.ndarray]

    @property
    def sampled(self) -> int:
        return len(next(iter(self.ious.values())))

    def mean(self, grid: tuple[int, int]) -> float:
        """Mean IoU over the sample; NaN without an instance."""
        return float(self.ious[grid].mean()) if self.sampled else float('nan')

    def best_ap(self, grid: tuple[int, int]) -> float:
        """COCO's mask AP when every object is found with this IoU and nothing else is: mean share that reach a threshold."""
        return float(np.mean([(self.ious[grid] >= t).mean() for t in _THRESHOLDS])) if self.sampled else float('nan')


@dataclass(frozen=True)
class Ceiling:
    """The answer: a row a class; ``own`` the grid of the config, None when its masks have no grid of fixed size."""

    part: str
    own: tuple[int, int] | None
    rows: Sequence[ClassCeiling] = ()
    lines: Sequence[str] = ()
    findings: Sequence[Finding] = field(default_factory=list)

    @property
    def grids(self) -> list[tuple[int, int]]:
        return list(self.rows[0].ious) if self.rows else []

    def table(self) -> Table | None:
        """Mean IoU per class and grid; None when there is no grid."""
        if not self.rows:
            return None
        title = f'Best mask IoU that a grid allows, {self.part} (* the grid of this config)'
        table = Table(title=title, title_justify='left')
        table.add_column('class')
        for heading in ('instances', 'tried', *(_words(g) + ('*' if g == self.own else '') for g in self.grids)):
            table.add_column(heading, justify='right')
        table.add_column(f'mask AP at most, {_words(self.own)}', justify='right')
        for row in self.rows:
            means = [f'{row.mean(grid):.3f}' if row.sampled else '-' for grid in self.grids]
            best = f'{row.best_ap(self.own):.2f}' if row.sampled else '-'
            table.add_row(escape(row.name), f'{row.instances:,}', f'{row.sampled:,}', *means, best)
        return table

    def to_record(self) -> dict:
        """For JSON."""
        classes = [
            {
                'class': row.name,
                'instances': row.instances,
                'sampled': row.sampled,
                'grids': [
                    {
                        'grid': list(grid),
                        'mean_iou': round(row.mean(grid), 4),
                        'best_mask_ap': round(row.best_ap(grid), 4),
                    }
                    for grid in (self.grids if row.sampled else ())
                ],
            }
            for row in self.rows
        ]
        own = list(self.own) if self.own else None
        return {
            'part': self.part,
            'own_grid': own,
            'classes': classes,
            'lines': list(self.lines),
            'findings': to_record(self.findings),
        }


def ceiling(part: DataPart, cfg: Config, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Ceiling:
    """Best mask IoU per class and grid: ground truth -> mask target -> paste -> IoU with the ground truth.

    The rule: the masks have the form and the scale that the part's pipeline gives them (of a scale that is drawn, the
    largest). MMDetection's ``mask_target_single`` makes the target in the object's own box: 0 or 1 for each cell, or its
    covered share with ``soft_mask_target``. A head that has learnt it perfectly predicts these very probabilities, and
    MMDetection's ``_do_paste_mask`` and ``mask_thr_binary`` make a mask of the original image from them. Its IoU is the
    ceiling of an object that is found, in its own box, and learnt as training teaches it; probabilities between 0 and 1,
    which no target of 0 and 1 teaches, could do better on the same grid. Crowd regions and what MMDetection drops are left
    out.

    Args:
        part: with its ``coco``.
        cfg: of which the model's mask grid and the training pipeline are used.
        seed: of the sample, at most 2,000 instances a class and fewer with several classes or large objects; ``lines`` and
            the table say how many.
        progress: called with (done, all) instances.
    """
    own, lines = own_grid(cfg)
    if own is None or part.coco is None:
        return Ceiling(part.name, own, lines=lines)
    found = read_instances(part, cfg)
    names = class_names(part)
    rcnn = _rcnn(cfg.model.train_cfg)
    soft = bool(rcnn.get('soft_mask_target', False))
    drawn = soft | _drawn(part, found)
    sample, usable = _sample(part, found, names, seed)
    # under 0 MMDetection keeps the probabilities, for looking at
    threshold = max(_rcnn(cfg.model.get('test_cfg') or {}).get('mask_thr_binary', 0.5), 0)
    grids = sorted({*map(_pair, GRIDS), own})
    images = {image['id']: image for image in part.coco.images}
    bitmaps = {a['id'] for a, one in zip(part.coco.annotations, drawn, strict=True) if one}

    def ious_of(annotation: dict, grids: Sequence[tuple[int, int]], soft: bool) -> list[float]:
        image = images[annotation['image_id']]
        shape = input_size(found.transforms, image['width'], image['height'])[::-1]
        return instance_ceilings(annotation, image, shape, grids, soft or annotation['id'] in bitmaps, soft, threshold)

    total, done, rows, findings = sum(map(len, sample.values())), 0, [], []
    with torch.inference_mode():
        for name, annotations in sample.items():
            ious = []
            for annotation in annotations:
                ious.append(ious_of(annotation, grids, soft))
                done += 1
                if progress:
                    progress(done, total)
            table = np.array(ious).reshape(-1, len(grids))
            row = ClassCeiling(name, usable[name], dict(zip(grids, table.T, strict=True)))
            rows.append(row)
            if row.sampled and row.mean(own) < _GOOD:
                by_share = (
                    None
                    if soft
                    else float(
                        np.mean([ious_of(a, [own], True) for a in annotations[:: 1 + len(annotations) // _SOFT_TRIED]])
                    )
                )
                findings += _findings(row, own, by_share, cfg, part.name)
    if total < sum(usable.values()):
        lines = [
            *lines,
            f'Resolution ceiling: from {total:,} of {sum(usable.values()):,} instances, drawn with seed {seed}, at most '
            f'{_PER_CLASS:,} a class.',
        ]
    return Ceiling(part.name, own, rows, lines, findings)


def instance_ceilings(
    annotation: Mapping,
    image: Mapping,
    shape: tuple[int, int],
    grids: Sequence[tuple[int, int]],
    bitmaps: bool = False,
    soft: bool = False,
    threshold: float = 0.5,
) -> list[float]:
    """IoU of one object after each grid, the same to the bit as over masks of the whole image.

    Args:
        annotation: of a COCO file, with an outline.
        image: its entry, with width and height in pixels.
        shape: (height, width) at which the network sees the image.
        grids: (height, width) of masks.
        bitmaps: the mask is resized as pixels, not as polygons: what ``poly2mask=True`` does.
        soft: targets are covered shares.
        threshold: of the pasted probabilities.
    """
    height, width = int(image['height']), int(image['width'])
    segmentation = annotation['segmentation']
    if isinstance(segmentation, list):
        # as mmdet's LoadAnnotations: a polygon of two points is passed over
        segmentation = [np.array(polygon, float) for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]
    truth = to_rle(segmentation, height, width)
    if isinstance(segmentation, list) and not bitmaps:
        masks = PolygonMasks([segmentation], height, width).resize(shape)
    else:
        masks = WindowMasks.from_rles([truth], height, width).resize(shape)
    x, y, across, down = annotation['bbox']
    factor = shape[1] / width, shape[0] / height
    seen = HorizontalBoxes(torch.tensor([[x, y, x + across, y + down]], dtype=torch.float32))
    seen.rescale_(factor)
    seen.clip_(shape)
    box = seen.tensor / seen.tensor.new_tensor(factor).repeat((1, 2))
    area, ious, inside = float(coco_mask.area(truth)), [], None
    for grid in grids:
        cfg = ConfigDict(mask_size=grid, soft_mask_target=soft)
        # the target is clipped to the image in place
        target = mask_target_single(seen.tensor.clone(), torch.zeros(1, dtype=torch.int64), masks, cfg)
        pasted, (rows, columns) = _do_paste_mask(target[:, None], box, height, width, skip_empty=True)
        predicted = (pasted[0] >= threshold).numpy()
        if inside is None:  # every grid is pasted into the same window
            inside = draw(truth, (int(columns.start), int(rows.start), int(columns.stop), int(rows.stop))).astype(bool)
        common = np.count_nonzero(predicted & inside)
        union = area + np.count_nonzero(predicted) - common
        ious.append(common / union if union else 0.0)
    return ious


def own_grid(cfg: Config) -> tuple[tuple[int, int] | None, list[str]]:
    """Grid (height, width) of the masks that a config's model predicts, or None, and remarks: why there is none."""
    model = cfg.get('model') or {}
    roi_head = model.get('roi_head') or {}
    kind = model.get('type', 'the model')
    if not roi_head.get('mask_head'):
        return None, [f'Resolution ceiling: not for {kind}: it has no masks, or none in a grid of fixed size.']
    size = _rcnn(model.get('train_cfg') or {}).get('mask_size')
    if not size:
        return None, [f'Resolution ceiling: not for {kind}: model.train_cfg.rcnn sets no mask_size.']
    grid = tuple(_pair(size))
    if not roi_head.get('point_head'):
        return grid, []
    test = _rcnn(model.get('test_cfg') or {})
    finer = test.get('scale_factor', 2) ** test.get('subdivision_steps', 0)
    final = int(grid[0] * finer), int(grid[1] * finer)
    remark = (
        f'Resolution ceiling: {kind} refines its {_words(grid)} mask point by point to {_words(final)}, so that counts; it '
        'decides only the least certain points, so a long outline may stay below this ceiling.'
    )
    return final, [remark]


def _rcnn(settings: Mapping) -> Mapping:
    """``rcnn`` of train_cfg or test_cfg; of a cascade the last stage, whose masks are predicted."""
    rcnn = settings.get('rcnn') or {}
    return rcnn[-1] if isinstance(rcnn, (list, tuple)) else rcnn


def _drawn(part: DataPart, found: Instances) -> np.ndarray:
    """(N,) whether the pipeline resizes the mask of an annotation as pixels."""
    loader = next((one for one in found.transforms if isinstance(one, LoadAnnotations)), None)
    if not isinstance(loader, LoadInstanceMasks):
        return np.full(len(found.fates), getattr(loader, 'poly2mask', True))
    if not loader.polygons:
        return np.ones(len(found.fates), bool)
    # it draws the masks of an image that has an RLE
    mixed = {a['image_id'] for a in part.coco.annotations if isinstance(a.get('segmentation'), dict)}
    return np.array([a['image_id'] in mixed for a in part.coco.annotations], bool)


def _sample(
    part: DataPart, found: Instances, names: Sequence[str], seed: int
) -> tuple[dict[str, list[dict]], dict[str, int]]:
    """Seeded sample of the instances that reach the training loop, a list a class in the order of the file, and how many
    there are."""
    of_class = {name: np.flatnonzero(found.reaching & (found.names == name)) for name in names}
    present = max(sum(len(places) > 0 for places in of_class.values()), 1)
    most = min(_PER_CLASS, max(_ALTOGETHER // present, _LEAST))
    pixels = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    sample = {}
    for number, (name, places) in enumerate(of_class.items()):
        order = np.random.default_rng([seed, number]).permutation(places)[:most]
        within = int(np.searchsorted(pixels[order].cumsum(), _PIXELS / present, side='right'))
        order = sorted(order[: max(within, _FEWEST)])
        sample[name] = sound_masks(replace(part.coco, annotations=[part.coco.annotations[i] for i in order]))
    return sample, {name: len(places) for name, places in of_class.items()}


def _findings(row: ClassCeiling, own: tuple[int, int], by_share: float | None, cfg: Config, where: str) -> list[Finding]:
    """What a class's ceiling under _GOOD means; ``by_share`` its mean on the same grid with soft targets."""
    here = row.mean(own)
    finer = [grid for grid in row.ious if grid[0] > own[0] and row.mean(grid) - here >= _WORTH]
    severity = 'warning' if here < _POOR else 'information'
    low = int((row.ious[own] < _POOR).sum())
    text = (
        f'class {row.name!r}: a mask learnt perfectly on the {_words(own)} grid of this config has mask IoU {here:.3f} on '
        f'average, {low} of {row.sampled} objects stay under {_POOR}, and its mask AP can be {row.best_ap(own):.2f} at most'
    )
    if finer:
        grid = next((grid for grid in finer if row.mean(grid) >= _GOOD), finer[-1])
        text += f'; on {_words(grid)} it is {row.mean(grid):.3f} and {row.best_ap(grid):.2f}'
        remedy = grid_remedy(cfg, own, grid)
        if by_share is not None and by_share >= _GOOD:
            text += f'; on the same grid with soft targets, each cell its covered share, it is {by_share:.3f}'
            remedy += f'\nor {_SOFT}{_recipe_like("_soft-target")}'
        return [Finding('mask-grid-coarse', severity, f'{text}.', row.sampled, (), remedy, where)]
    if severity == 'information':
        return []
    text += '; no finer grid lifts it, so the grid is not the cause.'
    remedy = 'compare bbox with the masks: the mask head sees what is inside the box, and draws nothing outside it'
    return [Finding('mask-ceiling-low', severity, text, row.sampled, (), remedy, where)]


def _recipe_like(suffix: str) -> str:
    name = next((name for name in recipes() if name.startswith('mask-rcnn_r50') and name.endswith(suffix)), None)
    return f'\nas in the recipe {name}' if name else ''


def grid_remedy(cfg: Config, own: tuple[int, int], grid: tuple[int, int]) -> str:
    """Config lines that give the masks a finer grid, and the recipe that has them."""
    model = cfg.model
    times = grid[0] / own[0]
    extractor = model.roi_head.get('mask_roi_extractor') or {}
    lines = []
    several = isinstance(extractor, (list, tuple))
    for position, one in enumerate(extractor if several else [extractor]):
        size = (one.get('roi_layer') or {}).get('output_size')
        if isinstance(size, int):
            place = f'mask_roi_extractor.{position}' if several else 'mask_roi_extractor'
            lines.append(f'model.roi_head.{place}.roi_layer.output_size={int(size * times)}')
    if model.roi_head.get('mask_iou_head'):
        lines.append(f'model.roi_head.mask_iou_head.roi_feat_size={grid[0] // 2}')
    stages = model.train_cfg.rcnn
    if isinstance(stages, (list, tuple)):
        lines += [f'model.train_cfg.rcnn.{stage}.mask_size={grid[0]}' for stage in range(len(stages))]
    else:
        lines.append(f'model.train_cfg.rcnn.mask_size={grid[0]}')
    return ' '.join(lines) + _recipe_like(f'_mask{grid[0]}')


def _words(grid: tuple[int, int]) -> str:
    return f'{grid[0]}x{grid[1]}'
