"""Validation that gives losses beside the predictions, from one pass through backbone and neck."""

import contextlib
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import ValLoop, autocast
from torch import nn

from mmext.analysis.shares import by_family
from mmext.errors import InputError
from mmext.model import bare_model, parsed_losses
from mmext.registry import LOOPS, METRICS
from mmext.run_state import random_state, set_random_state


class ImageLosses(BaseMetric):
    """Mean over images of each loss family and of the total: ``val_loss``, ``val_loss_mask`` and so on.

    A metric, so that MMEngine gathers it over processes and leaves out the images that only fill up the last one's share.
    """

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Nothing: the loop appends each image's losses to ``results``."""

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        names = dict.fromkeys(name for losses in results for name in losses)
        return {name: sum(losses.get(name, 0.0) for losses in results) / len(results) for name in names}


def image_losses(losses: Mapping[str, torch.Tensor | Sequence[torch.Tensor]]) -> dict[str, float]:
    """Losses of one image as training adds them up (a list is summed), by family, with the total.

    Args:
        losses: as a model's ``loss`` returns them.
    """
    values = {name: float(value) for name, value in parsed_losses(losses).items()}
    return {'val_loss': sum(values.values())} | {f'val_loss_{name}': value for name, value in by_family(values).items()}


def at_input_size(sample):
    """A copy of a data sample whose ground truth is in pixels of the network's input, as training has it.

    MMDetection's validation pipelines load the ground truth after Resize, in pixels of the original image; its size says so.

    Raises:
        InputError: the sample has no masks, or masks of neither size.
    """
    copy = sample.new()
    height, width = sample.img_shape[:2]
    for name in ('gt_instances', 'ignored_instances'):
        if name not in sample:
            continue
        instances = getattr(sample, name).clone()
        if 'masks' not in instances:
            raise InputError(
                'LossValLoop: the validation pipeline loads no masks, so there is no mask loss. Put '
                "dict(type='mmext.LoadInstanceMasks') before PackDetInputs, or set val_cfg.type=ValLoop."
            )
        size = (instances.masks.height, instances.masks.width)
        if size != (height, width):
            if size != tuple(sample.ori_shape[:2]):
                raise InputError(
                    f'LossValLoop: masks of {size} in an image of {sample.ori_shape[:2]}, resized to {(height, width)}.'
                )
            factors = instances.bboxes.new_tensor([width / size[1], height / size[0]]).repeat(2)
            masks, boxes = instances.masks.resize((height, width)), instances.bboxes * factors
            instances = instances.new(**{**dict(instances.items()), 'masks': masks, 'bboxes': boxes})
        setattr(copy, name, instances)
    return copy


class SharedFeatures:
    """What ``extract_feat`` gave for a batch, handed out again for single images of it."""

    def __init__(self, model: nn.Module):
        self._extract, self._features, self.image = model.extract_feat, None, None

    def __call__(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.image is None:
            self._features = self._extract(inputs)
            return self._features
        return tuple(level[self.image : self.image + 1] for level in self._features)


@contextlib.contextmanager
def shared_features(model: nn.Module) -> Iterator[SharedFeatures]:
    """Let a model compute its features once a batch; set ``image`` of what is yielded to have those of one image."""
    features = SharedFeatures(model)
    model.extract_feat = features
    try:
        yield features
    finally:
        del model.extract_feat  # the class's own is there again


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave all random number generators as they were: a loader draws from torch's even without workers."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@LOOPS.register_module()
class LossValLoop(ValLoop):
    """MMEngine's ValLoop with losses: ``val_cfg = dict(type='mmext.LossValLoop')``.

    Adds ``val_loss``, the total as training optimises it, and ``val_loss_mask``, ``val_loss_cls``, ``val_loss_bbox``,
    ``val_loss_rpn_cls``, ``val_loss_rpn_bbox`` to the metrics. Predictions and losses share one pass through backbone and
    neck. Losses are taken in eval mode, image by image, and averaged over images: the batch size does not matter as
    long as the images of a batch have one size (padding changes features at the edge). Samplers draw from a generator that
    is seeded by the image, so the same weights give the same losses. Training does not notice: batch-norm statistics and
    random numbers are as they were. The quality of the masks, ``mask/iou`` and so on, is measured on the way.

    Args:
        extra_metrics: configs of metrics beside those of ``val_evaluator``; one whose type stands there already is left out.
        args, kwargs: of ValLoop.

    Raises:
        InputError: the validation pipeline loads no masks.
    """

    # what follows val_loss asks for it
    gives_losses = True

    def __init__(self, *args, extra_metrics: Sequence[Mapping] | None = ({'type': 'mmext.MaskQualityMetric'},), **kwargs):
        super().__init__(*args, **kwargs)
        self._losses = ImageLosses()
        there = {type(metric) for metric in self.evaluator.metrics}
        extra = [METRICS.build(dict(cfg)) for cfg in extra_metrics or ()]
        for metric in [metric for metric in extra if type(metric) not in there] + [self._losses]:
            metric.dataset_meta = self.evaluator.dataset_meta
            self.evaluator.metrics.append(metric)

    def run(self) -> dict:
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        # over before the hooks: a checkpoint that they write has the random numbers with which training goes on
        with kept_random_state():
            for idx, data_batch in enumerate(self.dataloader):
                self.run_iter(idx, data_batch)
            metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        self.runner.call_hook('before_val_iter', batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            outputs = self._predict_with_losses(data_batch)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook('after_val_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)

    def _predict_with_losses(self, data_batch: dict) -> Sequence:
        model = bare_model(self.runner)
        data = model.data_preprocessor(data_batch, False)
        truths = [at_input_size(sample) for sample in data['data_samples']]
        if model.data_preprocessor.pad_mask:
            model.data_preprocessor.pad_gt_masks(truths)
        with shared_features(model) as features:
            outputs = model(**data, mode='predict')
            for number, truth in enumerate(truths):
                features.image = number
                seed = zlib.crc32(str(truth.img_id).encode())
                random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
                losses = model(data['inputs'][number : number + 1], [truth], mode='loss')
                self._losses.results.append(image_losses(losses))
        return outputs
