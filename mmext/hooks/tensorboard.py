"""TensorBoard as one wants to find it: charts of what belongs together, and the same few images after each validation."""

import traceback
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.dist import is_main_process
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.visualization import TensorboardVisBackend

from mmext.analysis.overlay import side_by_side
from mmext.errors import InputError
from mmext.metrics.mask_quality import prediction_of, truth_of
from mmext.registry import HOOKS

# chart to the names in it, as regular expressions that TensorBoard matches from a name's first letter on
LAYOUT = {
    'Training': {
        'rate of each part': [r'(?!base_lr$).+_lr$'],
        'share of the loss': [r'share_'],
        'losses': [r'(s\d+\.|stage\d+_)?loss_'],
    },
    'Training and validation': {
        'total': [r'loss$', r'val_loss$'],
        'mask': [r'loss_mask$', r'val_loss_mask$'],
        'class': [r'loss_cls$', r'val_loss_cls$'],
        'box': [r'loss_bbox$', r'val_loss_bbox$'],
        'RPN': [r'loss_rpn_', r'val_loss_rpn_'],
    },
    'Validation': {
        'AP': [r'coco/(bbox|segm)_mAP$'],
        'AP50 and AP75': [r'coco/(bbox|segm)_mAP_(50|75)$'],
        'AP by size': [r'coco/(bbox|segm)_mAP_[sml]$'],
        'masks of the objects found': [r'mask/(iou|boundary_iou|coverage|area_ratio)$'],
    },
}


def spread(number: int, chosen: int) -> list[int]:
    """Places of ``chosen`` of ``number`` things, evenly apart, the first and the last among them."""
    return sorted(set(np.linspace(0, number - 1, min(chosen, number)).round().astype(int).tolist())) if number > 0 else []


@HOOKS.register_module()
class TensorboardHook(Hook):
    """Charts and images in TensorBoard: ``tensorboard=dict(type='mmext.TensorboardHook')`` in default_hooks.

    Under *Custom Scalars* the rates of all parts are one chart of many lines, so are shares, losses and metrics, and each
    loss has its validation loss beside it. Under *Images* the same images appear after each validation, ground truth on the
    left, predictions on the right with the ground truth as a white line. It does nothing where the visualizer has no
    ``TensorboardVisBackend``; what goes wrong in it is logged, and the training goes on.

    Args:
        images: how many validation images, evenly apart in the data set; 0 for none.
        score: predictions from here on are shown.
        longest: pixels of an image's longer side; an image of 512 takes about half a megabyte each time.

    Raises:
        InputError: ``images`` is negative, or ``longest`` no positive number.
    """

    priority = 'LOWEST'

    def __init__(self, images: int = 4, score: float = 0.5, longest: int = 512):
        if images < 0 or longest < 1:
            raise InputError(f'TensorboardHook: images={images}, longest={longest}; allowed: images >= 0, longest >= 1.')
        self._images, self._score, self._longest = images, score, longest
        self._chosen: list[int] = []
        self._seen = 0

    def before_train(self, runner) -> None:
        for backend in _tensorboards(runner):
            charts = {
                group: {title: ['Multiline', names] for title, names in inside.items()} for group, inside in LAYOUT.items()
            }
            backend.experiment.add_custom_scalars(charts)

    def before_val_epoch(self, runner) -> None:
        self._seen = 0
        self._chosen = spread(len(runner.val_dataloader.sampler), self._images) if _tensorboards(runner) else []

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        for place, sample in enumerate(outputs or (), self._seen):
            if place in self._chosen:
                self._draw(runner, sample)
        self._seen += len(outputs or ())

    def _draw(self, runner, sample) -> None:
        try:
            picture = _picture(runner.val_dataloader.dataset, sample.img_path)
            data = sample.to_dict()
            drawn = side_by_side(picture, truth_of(data), prediction_of(data), self._score, self._longest)
            name = f'validation/{Path(sample.img_path).name}'
            for backend in _tensorboards(runner):
                backend.add_image(name, drawn, runner.iter)
        except Exception as error:  # a training of days is worth more than its pictures
            self._images, self._chosen = 0, []
            why = str(error) if isinstance(error, InputError) else traceback.format_exc()
            runner.logger.warning(f'TensorboardHook draws no validation images from here on: {why}')


def _picture(dataset, path: str) -> np.ndarray:
    """An image (H, W, 3) in RGB, of 8 bits; of more by the limits of mmext.LoadMicroscopeImage where the pipeline has it."""
    while hasattr(dataset, 'datasets') or hasattr(dataset, 'dataset'):
        dataset = dataset.datasets[0] if hasattr(dataset, 'datasets') else dataset.dataset
    pipeline = getattr(dataset, 'pipeline', None)
    loader = pipeline.transforms[0] if pipeline is not None and pipeline.transforms else None
    if hasattr(loader, 'read'):
        return np.ascontiguousarray(loader.read(path)[..., ::-1])
    return mmcv.imfrombytes(get(path), channel_order='rgb')


def _tensorboards(runner) -> list[TensorboardVisBackend]:
    """TensorBoard's backends of the run: on the main process only, the others have none."""
    if not is_main_process():
        return []
    # MMEngine hands out a backend by the name that the config gave it, and has no list of them
    return [one for one in runner.visualizer._vis_backends.values() if isinstance(one, TensorboardVisBackend)]
