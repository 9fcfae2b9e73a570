"""The end of `make demo`: one table and one picture of the same images under several runs."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from mmext.analysis.mask_match import Objects, match
from mmext.analysis.runs import AP_METRICS, Run, read_run
from mmext.errors import InputError

_SCORE = 0.5  # the picture shows detections from here on
_COLOURS = ((0, 114, 178), (213, 94, 0), (204, 121, 167))  # Okabe and Ito, told apart by the colour-blind


@dataclass(frozen=True)
class Result:
    """One run: validation metrics at its end, means over matched pairs, and the detections of each image."""

    run: Run
    metrics: dict[str, float]
    mask_iou: float
    coverage: float
    matched: int
    objects: int
    predictions: list[Objects]


def evaluate(work_dir: Path) -> tuple[Result, list[str], list[Objects]]:
    """Predict the validation images of a run with its last checkpoint.

    Returns:
        The result, the image files, and their ground truth.
    """
    from mmdet.apis import inference_detector, init_detector
    from mmengine.config import Config

    from mmext.metrics.mask_quality import prediction_of
    from mmext.safe_load import allow_mmengine_checkpoints

    run = read_run(work_dir)
    if not run.train or not (work_dir / 'last_checkpoint').is_file():
        raise InputError(f'{work_dir}: {run.problem or "it has no checkpoint"}. Run `make demo` again.')
    cfg = Config.fromfile(next(path for path in work_dir.glob('*.py')))
    allow_mmengine_checkpoints()
    with contextlib.redirect_stdout(io.StringIO()):  # MMEngine says what it loads
        model = init_detector(cfg, (work_dir / 'last_checkpoint').read_text().strip(), device='cpu')
    files, truths = ground_truth(cfg.val_dataloader.dataset)
    predictions = [prediction_of(found.to_dict()) for found in inference_detector(model, files)]
    pairs = [pair for truth, prediction in zip(truths, predictions, strict=True) for pair in match(truth, prediction)]
    result = Result(
        run=run,
        metrics={name: run.last(metric) for name, metric in AP_METRICS.items()},
        mask_iou=float(np.mean([pair.mask_iou for pair in pairs])) if pairs else float('nan'),
        coverage=float(np.mean([pair.coverage for pair in pairs])) if pairs else float('nan'),
        matched=len(pairs),
        objects=sum(len(truth.labels) for truth in truths),
        predictions=predictions,
    )
    return result, files, truths


def ground_truth(dataset_cfg) -> tuple[list[str], list[Objects]]:
    """Image files of a COCO data set's config and their objects."""
    from pycocotools import mask as coco_mask

    from mmext.data.coco_file import read_coco

    root = Path(dataset_cfg.data_root)
    coco = read_coco(root / dataset_cfg.ann_file)
    label = {category['id']: i for i, category in enumerate(coco.categories)}
    files, truths = [], []
    for image in coco.images:
        own = [a for a in coco.annotations if a['image_id'] == image['id'] and not a.get('iscrowd')]
        sizes = image['height'], image['width']
        rles = [coco_mask.merge(coco_mask.frPyObjects(a['segmentation'], *sizes)) for a in own]
        boxes = np.array([a['bbox'] for a in own], float).reshape(-1, 4)
        files.append(str(root / dataset_cfg.data_prefix.img / image['file_name']))
        truths.append(Objects(boxes, rles, np.array([label[a['category_id']] for a in own], int)))
    return files, truths


def to_table(results: Sequence[Result]) -> Table:
    """The demo's last table: one row a run."""
    table = Table(title='After the same 120 iterations on the same 60 images', title_justify='left')
    table.add_column('run', overflow='fold')
    for heading in (*AP_METRICS, 'mask IoU', 'coverage', 'objects found'):
        table.add_column(heading, justify='right')
    for result in results:
        cells = ['-' if value is None else f'{value:.3f}' for value in result.metrics.values()]
        cells += [f'{result.mask_iou:.3f}', f'{result.coverage:.3f}', f'{result.matched} of {result.objects}']
        table.add_row(result.run.name, *cells)
    return table


def spread_table(results: Sequence[Result], seed_mark: str = '-seed') -> Table:
    """Over the seeds of each setting: mean, and least to most."""
    settings: dict[str, list[Result]] = {}
    for result in results:
        settings.setdefault(result.run.name.partition(seed_mark)[0], []).append(result)
    table = Table(title='Over the seeds: mean (least-most)', title_justify='left')
    table.add_column('setting', overflow='fold')
    table.add_column('seeds', justify='right')
    columns = {name: (lambda result, name=name: result.metrics[name]) for name in ('box AP', 'mask AP')}
    columns |= {'mask IoU': lambda result: result.mask_iou, 'coverage': lambda result: result.coverage}
    columns['found'] = lambda result: result.matched / result.objects
    for heading in columns:
        table.add_column(heading, justify='right')
    for name, of_setting in settings.items():
        values = [[value(result) for result in of_setting] for value in columns.values()]
        cells = [f'{np.mean(v):.3f}\n({min(v):.2f}-{max(v):.2f})' for v in values]
        table.add_row(name, str(len(of_setting)), *cells)
    return table


def draw(results: Sequence[Result], files: Sequence[str], truths: Sequence[Objects], out: Path, images: int = 6) -> None:
    """The same images under every run: ground truth as a white outline, predictions filled."""
    import cv2
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from pycocotools import mask as coco_mask

    chosen = np.linspace(0, len(files) - 1, min(images, len(files))).round().astype(int)
    figure, axes = plt.subplots(
        len(results), len(chosen), figsize=(2.2 * len(chosen), 2.35 * len(results)), squeeze=False, layout='constrained'
    )
    for row, result in zip(axes, results, strict=True):
        for axis, i in zip(row, chosen, strict=True):
            picture = cv2.cvtColor(cv2.imread(files[i]), cv2.COLOR_BGR2RGB).astype(float)
            prediction = result.predictions[i]
            for rle, label, score in zip(prediction.rles, prediction.labels, prediction.scores, strict=True):
                if score >= _SCORE:
                    inside = coco_mask.decode(rle).astype(bool)
                    picture[inside] = 0.4 * picture[inside] + 0.6 * np.array(_COLOURS[label % len(_COLOURS)])
            picture = picture.astype(np.uint8)
            for rle in truths[i].rles:
                outlines, _ = cv2.findContours(coco_mask.decode(rle), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1)
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
        metrics = result.metrics
        row[0].set_ylabel(
            f'{result.run.name}\nbox AP {metrics["box AP"] or 0:.2f}, mask AP {metrics["mask AP"] or 0:.2f}', fontsize=9
        )
    figure.suptitle(
        f'White outline: ground truth. Filled: detections of score {_SCORE} and more '
        '(Fiber blue, Fragment orange, Film pink).',
        fontsize=10,
    )
    figure.savefig(out, dpi=130)
    plt.close(figure)
