"""COCO's mean average precision, with numbers also when nothing was detected."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as StockCocoMetric
from mmengine.logging import MMLogger
from pycocotools.cocoeval import Params
from rich.markup import escape
from rich.table import Table

from mmext.console import tell
from mmext.errors import InputError
from mmext.metrics.coco_backend import Found, evaluate, found_in
from mmext.metrics.mask_quality import encoded
from mmext.registry import METRICS

# MMDetection's names of recalls have these caps on detections also where its proposal_nums are others
_CAPS = (100, 300, 1000)
_SHOWN = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
_BACKENDS = ('auto', 'pycocotools')


def names_of(caps: Sequence[int]) -> tuple[str, ...]:
    """Names of the numbers in COCOeval.stats, in its order.

    Args:
        caps: three, the detections of a class in an image that recall counts at most, in ascending order.
    """
    recalls = [f'AR@{cap}' for cap in caps] + [f'AR_{size}@{caps[-1]}' for size in 'sml']
    return (*_SHOWN, *recalls)


def class_precision(precision: np.ndarray, number: int | slice) -> dict[str, float]:
    """Average precisions of one class, by the names that the overall ones have; -1 where the class has no ground truth.

    Args:
        precision: of COCOeval (IoU thresholds, recalls, classes, areas, detection caps).
        number: of the class, or several.
    """
    chosen = {'mAP': precision[:, :, number, 0, -1]}
    chosen |= {f'mAP_{name}': precision[at, :, number, 0, -1] for name, at in (('50', 0), ('75', 5)) if at < len(precision)}
    chosen |= {f'mAP_{name}': precision[:, :, number, area, -1] for area, name in enumerate('sml', 1)}
    return {name: float(values[values > -1].mean()) if (values > -1).any() else -1.0 for name, values in chosen.items()}


@METRICS.register_module()
class CocoMetric(StockCocoMetric):
    """MMDetection's CocoMetric, made safe to steer a training by: ``val_evaluator = dict(type='mmext.CocoMetric', ...)``.

    - Every key is there also when nothing was detected in the whole data set, with the numbers that COCOeval gives for an
      empty list: 0 where there is ground truth, -1 where there is none. Stock returns no key at all, and plateau,
      early stopping and best checkpoint die of it.
    - Values are not rounded to three digits.
    - ``classwise=True`` gives ``bbox_Fiber_mAP`` and ``segm_Fiber_mAP``; stock's box and mask keys of a class are the same.

    - Where hotcoco is installed (``pip install 'mmext[fast]'``) it evaluates, many times faster, with the same numbers to
      the bit. Where it is not, or would not give the same numbers, pycocotools evaluates, and a line says why.
    - Detections are evaluated from memory; files are written where ``outfile_prefix`` asks for them.
    - mAP can count more than 100 detections of a class in an image, which no setting of stock's does: ``max_detections``.

    Takes MMDetection's arguments; with metrics other than ``bbox`` and ``segm``, or ``format_only``, it is MMDetection's.

    Args:
        backend: ``'auto'``, hotcoco where it can be used, or ``'pycocotools'``.
        max_detections: detections of a class in an image that count in every number, best score first; it takes the place of
            the last of ``proposal_nums`` and, in mAP, of COCO's 100. Names of recalls follow: ``AR@350``. None: as
            MMDetection, 100 in mAP and the last of ``proposal_nums``, 1000, in AP50 and the others.
        kwargs: of MMDetection's CocoMetric.

    Raises:
        InputError: another backend, or ``max_detections`` that is no number from 1.
    """

    def __init__(self, *args, backend: str = 'auto', max_detections: int | None = None, **kwargs):
        if backend not in _BACKENDS:
            raise InputError(f'CocoMetric: backend is {backend!r}; it must be {" or ".join(map(repr, _BACKENDS))}.')
        super().__init__(*args, **kwargs)
        self.backend, self.max_detections = backend, max_detections
        self._names = names_of(_CAPS)
        if max_detections is not None:
            if isinstance(max_detections, bool) or not isinstance(max_detections, int) or max_detections < 1:
                raise InputError(
                    f'CocoMetric: max_detections is {max_detections!r}; it must be a whole number from 1, at best the '
                    "model's max_per_img."
                )
            lower = sorted(self.proposal_nums)[:2]
            self.proposal_nums = [min(cap, max_detections) for cap in lower] + [max_detections]
            self._names = names_of(self.proposal_nums)
        self._told = False

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """MMDetection's, with masks that are encoded once for all metrics; the samples stay as they are."""
        samples = []
        for sample in data_samples:
            found = sample['pred_instances']
            if 'masks' in found:
                # copies: results2json turns the counts of an RLE into text; an array: MMEngine's search for tensors to bring
                # to the CPU goes through every RLE of a list, and would take a third of the evaluation
                rles = [dict(rle) for rle in encoded(found['masks'])]
                found = {**found, 'masks': np.array(rles, dtype=object)}
            samples.append({**sample, 'pred_instances': found})
        super().process(data_batch, samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """MMDetection's numbers by name, for box and mask.

        Raises:
            InputError: masks are to be evaluated and there are none, or detections are on images that ``ann_file`` lacks.
        """
        if self.format_only or not set(self.metrics) <= {'bbox', 'segm'}:
            return super().compute_metrics(results)
        truths, predictions = zip(*results, strict=True)
        if self._coco_api is None:  # once a run: MMDetection makes the ground truth that it evaluates by way of a file
            with tempfile.TemporaryDirectory() as folder:
                prefix = self.outfile_prefix or str(Path(folder, 'results'))
                self._coco_api = COCO(self.gt_to_coco_json(gt_dicts=truths, outfile_prefix=prefix))
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        if self.img_ids is None:
            self.img_ids = self._coco_api.get_img_ids()
        found = found_in(predictions, self.cat_ids)
        if 'segm' in self.metrics and found.rles is None:
            raise InputError("CocoMetric: metric has 'segm', but the model predicts no masks. Set metric='bbox'.")
        if self.outfile_prefix:
            self.results2json(predictions, self.outfile_prefix)
        values: dict[str, float] = {}
        for metric in self.metrics:
            values |= self._evaluate(metric, found)
        return values

    def _evaluate(self, metric: str, found: Found) -> dict[str, float]:
        names = self.metric_items or _SHOWN
        unknown = [name for name in names if name not in self._names]
        if unknown:
            raise KeyError(f'metric_items: {unknown[0]!r} is unknown. There are: {", ".join(self._names)}.')
        evaluation, reason = evaluate(self._coco_api, found, metric, self._choose, self.backend == 'auto')
        if reason and not self._told:
            self._told = True
            MMLogger.get_current_instance().info(
                f'CocoMetric: evaluated by pycocotools, which takes longer, and not by hotcoco: {reason}.'
            )
        stats = dict(zip(self._names, evaluation.stats.tolist(), strict=True))
        if self.max_detections is not None:  # COCOeval.summarize computes mAP at 100, or gives -1
            stats['mAP'] = class_precision(evaluation.eval['precision'], slice(None))['mAP']
        values = {f'{metric}_{name}': stats[name] for name in names}
        rows = [('all', stats)]
        if self.classwise:
            for category in self._coco_api.loadCats(self.cat_ids):
                one = class_precision(evaluation.eval['precision'], evaluation.params.catIds.index(category['id']))
                rows.append((category['name'], one))
                values[f'{metric}_{category["name"].replace("/", "_")}_mAP'] = one['mAP']
        if not len(found.boxes):
            MMLogger.get_current_instance().warning(
                f'No {metric} was detected in any image: AP is 0 (-1 without ground truth).'
            )
        tell(MMLogger.get_current_instance(), ap_table(metric, rows), [])
        return values

    def _choose(self, params: Params) -> None:
        """What is evaluated, as MMDetection sets it."""
        params.catIds, params.imgIds = self.cat_ids, self.img_ids
        params.maxDets = list(self.proposal_nums)
        params.iouThrs = np.atleast_1d(self.iou_thrs)  # pycocotools fails on a list


def ap_table(metric: str, rows: Sequence[tuple[str, dict[str, float]]]) -> Table:
    """Average precisions of all classes together and, where asked for, of each."""
    table = Table(title={'bbox': 'Boxes', 'segm': 'Masks'}[metric] + ': average precision', title_justify='left')
    table.add_column('class')
    for name in _SHOWN:
        table.add_column(name.replace('mAP', 'AP').replace('_', ' '), justify='right')
    for name, values in rows:
        table.add_row(escape(name), *(f'{values[key]:.3f}' if values.get(key, -1) > -1 else '-' for key in _SHOWN))
    return table
