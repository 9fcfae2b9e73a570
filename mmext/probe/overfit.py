"""Experiment of ``--overfit N``: can the run's pipeline, model and loss learn the masks of a few of its images at all?"""

import contextlib
import copy
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS
from mmengine.runner import set_random_seed
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.optim import Optimizer

from mmext.analysis.diagnose import Cause, Experiment
from mmext.analysis.mask_match import Objects
from mmext.analysis.runs import Run
from mmext.analysis.trends import rise
from mmext.check.ceiling import instance_ceilings, own_grid
from mmext.check.checkpoints import local_file
from mmext.check.parts import data_parts
from mmext.check.rates import part_rates
from mmext.errors import InputError
from mmext.hooks.staged_training import is_trained, read_stages
from mmext.loops.loss_val_loop import kept_random_state
from mmext.metrics.mask_quality import truth_of
from mmext.model import build_model, load_weights
from mmext.optim.param_groups import part_of
from mmext.probe.gradients import family_losses, gradients_of
from mmext.probe.masks import grids_for_boxes, iou_at, paste, truth_in
from mmext.probe.subject import Sample, config_of, find_checkpoint, one_sample, shown_dataset, why_not
from mmext.probe.training import batch_size_of, optimizer_at_peak, train_loader
from mmext.probe.weigh import LIMITS, limit, paired
from mmext.probe.weights import Movement, movements

SEED = 0  # of the images, their order and what is drawn in their augmentation
EVERY = 10  # iterations from one measurement to the next
MOST = 2000  # iterations: on a GPU the budget is no bound
_WARM_UP = 10  # iterations: fresh momentum at the full rate throws new layers far off
# of the probabilities: targets are 0 and 1, so a threshold of prediction has no say in what was learnt
_HALF = 0.5


@dataclass(frozen=True)
class Point:
    """Mask IoU of each object (N,) from its own box, after so many iterations."""

    iteration: int
    ious: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.ious.mean())


@dataclass(frozen=True)
class Trial:
    """What became of the attempt.

    ``start``: the weights that it began with, in words; ``images`` (N,): image of each object; ``ceiling``: mean mask IoU
    that the grid allows them; ``points``: the first before any step; ``mask_losses``: one an iteration; ``moved``: part to
    what became of its weights, ``rates``: to its rate; ``seconds`` that it took.
    """

    start: str
    images: np.ndarray
    ceiling: float
    points: Sequence[Point]
    mask_losses: Sequence[float]
    moved: Mapping[str, Movement]
    rates: Mapping[str, float]
    seconds: float

    @property
    def goal(self) -> float:
        return limit('overfit') * self.ceiling

    @property
    def best(self) -> Point:
        return max(self.points, key=lambda point: point.mean)

    @property
    def iterations(self) -> int:
        return len(self.mask_losses)

    @property
    def level(self) -> float:
        """Mask IoU at which it stands: median of the last third of the measurements."""
        last = [point.mean for point in self.points[-max(1, len(self.points) // 3) :]]
        return float(np.median(last))

    @property
    def reach(self) -> float:
        """Mask IoU after as many iterations again, were it to rise as in the second half at the most (95 %): curves bend
        down, so it is hardly less than what would come."""
        half = self.points[len(self.points) // 2 :]
        found = rise([point.iteration for point in half], [point.mean for point in half]) if len(half) > 2 else None
        return math.inf if found is None else self.level + 2 * max(found.high, 0.0)


def overfit(
    run: Run,
    images: int,
    budget: float,
    progress: Callable[[str, int, int], None] | None = None,
    device: str | None = None,
    most: int = MOST,
) -> Experiment:
    """Train a copy of a run on a few of its training images, and say whether it learns their masks.

    Begins with the run's checkpoint (without one with its load_from), and has its own training pipeline, batch size,
    optimizer, clipping and, constant after a few steps, the highest rates of its log; of its losses those of the mask
    branch. Nothing of the run is written.

    Args:
        run: as read from its work_dir.
        images: how many.
        budget: seconds.
        progress: called with (what, done, all).
        device: of torch; by default a GPU where there is one.
        most: iterations.

    Raises:
        InputError: config, weights or data cannot be used, or the model's masks cannot be measured so.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    cfg = config_of(run)
    with kept_random_state(), contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
        set_random_seed(SEED)
        model, start = starting_model(run, cfg)
        reason = why_not(model)
        if reason:
            raise InputError(f'--overfit does not apply: {reason}.')
        sample, dataset = few_images(cfg, images)
        return judge(_try(run, cfg, model.to(device), start, sample, dataset, budget, progress, most))


def starting_model(run: Run, cfg: Config) -> tuple[nn.Module, str]:
    """The model of a run with the weights of its checkpoint, or those that it began with; and which, in words."""
    try:
        checkpoint = find_checkpoint(run.path)
    except InputError:
        return _as_at_start(cfg)
    model = build_model(cfg)
    load_weights(model, checkpoint)
    return model, checkpoint.name


def _as_at_start(cfg: Config) -> tuple[nn.Module, str]:
    """The model as a training of the config begins."""
    cfg = copy.deepcopy(cfg)
    file = local_file(str(cfg.load_from)) if cfg.get('load_from') else None
    if cfg.get('load_from') and file is None:
        raise InputError(f'--overfit: the run has no checkpoint, and load_from is not here: {cfg.load_from}')
    if file is not None and cfg.model.get('backbone'):
        cfg.model.backbone.init_cfg = None  # it would be downloaded, and load_from fills it
    model = build_model(cfg)
    try:
        model.init_weights()
    except Exception as error:  # a download without a network, above all
        raise InputError(f'--overfit: the model cannot be initialised: {type(error).__name__}: {error}') from error
    if file is None:
        return model, 'new weights'
    load_weights(model, file, strict=False)
    return model, f'load_from ({file.name})'


def few_images(cfg: Config, images: int) -> tuple[Sample, ConfigDict]:
    """Training images with objects, drawn with a seed: as validation shows them, and the training's data set of them alone.

    Args:
        cfg: of the run.
        images: how many; all that there are, where there are fewer.
    """
    part = next((part for part in data_parts(cfg) if part.name == 'train'), None)
    if part is None:
        raise InputError('--overfit: train_dataloader has no COCO data set.')
    shown = shown_dataset(cfg, part)
    whole = copy.deepcopy(part.dataset)
    whole.pop('indices', None)
    try:
        trained = DATASETS.build(copy.deepcopy(whole))
    except Exception as error:
        raise InputError(f'train: {part.ann_file}: {type(error).__name__}: {error}') from error
    filled = [place for place in range(len(trained)) if _objects(trained.get_data_info(place))]
    if not filled:
        raise InputError(f'--overfit: {part.ann_file} has no image with an object.')
    chosen = sorted(np.random.default_rng(SEED).permutation(filled)[:images].tolist())
    places = {shown.get_data_info(place)['img_id']: place for place in range(len(shown))}
    ids = [trained.get_data_info(place)['img_id'] for place in chosen]
    sample = Sample('train', tuple((shown, places[one]) for one in ids), len(filled))
    key = part.key.removeprefix('train_dataloader.dataset').strip('.')
    return sample, _narrowed(cfg.train_dataloader.dataset, key.split('.') if key else [], chosen)


def _objects(info: Mapping) -> int:
    return sum(not one.get('ignore_flag') for one in info['instances'])


def _narrowed(dataset: ConfigDict, path: Sequence[str], places: list[int]) -> ConfigDict:
    """A data set with its wrappers, of which only some images of the innermost one at a path of keys are left."""
    dataset = copy.deepcopy(dataset)
    if not path:
        dataset.indices = places
        return dataset
    if path[0] == 'datasets':
        return _narrowed(dataset.datasets[int(path[1])], path[2:], places)
    dataset.dataset = _narrowed(dataset.dataset, path[1:], places)
    return dataset


def _try(
    run: Run,
    cfg: Config,
    model: nn.Module,
    start: str,
    sample: Sample,
    dataset: ConfigDict,
    budget: float,
    progress: Callable[[str, int, int], None] | None,
    most: int,
) -> Trial:
    """Train until the goal, the budget or the most iterations are reached, or the loss is no number."""
    _freeze(cfg, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = train_loader(cfg, SEED, dataset, min(batch_size_of(cfg), len(sample.places)))
    optimizer = optimizer_at_peak(run, cfg, model)
    rates = part_rates(model, optimizer)
    steps = _steps(cfg, model, optimizer, iter(loader))
    ceiling = float(np.concatenate([_ceilings(cfg, one, truth) for _, one, truth in _shown(model, sample)]).mean())
    first = _ious(model, sample)
    points, losses, seconds, begin = [Point(0, np.concatenate(first))], [], 0.0, time.monotonic()
    while points[-1].mean < limit('overfit') * ceiling and len(losses) < most and seconds < budget:
        for loss in itertools.islice(steps, min(EVERY, most - len(losses))):
            losses.append(loss)
            seconds = time.monotonic() - begin
            if progress:
                progress(f'overfitting {len(sample.places)} images', min(int(seconds), int(budget)), int(budget))
            if seconds >= budget or math.isnan(loss):
                break
        if math.isnan(losses[-1]):
            break
        points.append(Point(len(losses), np.concatenate(_ious(model, sample))))
    moved = movements([name for name, _ in model.named_parameters()], before, model.state_dict())
    images = np.concatenate([np.full(len(one), number) for number, one in enumerate(first)])
    return Trial(start, images, ceiling, points, losses, moved, rates, seconds)


def _freeze(cfg: Config, model: nn.Module) -> None:
    """What no stage of a staged training trains stays as it is."""
    hook = (cfg.get('default_hooks') or {}).get('staged_training') or {}
    if 'StagedTrainingHook' not in str(hook.get('type')):
        return
    stages = read_stages(hook.get('stages'))
    for name, parameter in model.named_parameters():
        if not any(is_trained(name, stage.train) for stage in stages):
            parameter.requires_grad_(False)


def _steps(cfg: Config, model: nn.Module, optimizer: Optimizer, batches: Iterator[dict]) -> Iterator[float]:
    """Train on the losses of the mask branch, step by step; gives the loss of each, NaN where it is no number.

    The other losses take most of a clipped step: without them a few images are learnt in half as many steps.
    """
    wrapper = OptimWrapper(optimizer, clip_grad=cfg.optim_wrapper.get('clip_grad'))
    rates = [group['lr'] for group in optimizer.param_groups]
    families: list[str] = []
    for number, batch in enumerate(batches, 1):
        model.train()  # measuring puts it into eval mode
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group['lr'] = rate * min(1.0, number / _WARM_UP)
        losses = family_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
        families = families or mask_families(model, losses)
        loss = sum(losses[family] for family in families if family in losses)
        value = float(loss.detach())
        if not math.isfinite(value):
            yield math.nan
            return
        if loss.requires_grad:
            wrapper.update_params(loss)
        yield value


def mask_families(model: nn.Module, losses: Mapping[str, Tensor]) -> list[str]:
    """Loss families that reach the mask head, whatever a loss of one's own is called; of a frozen one those named so."""
    found = gradients_of(model, losses)
    reaching = [family for family, gradient in found.items() if 'mask_head' in map(part_of, gradient)]
    return reaching or [family for family in losses if family == 'mask'] or list(losses)


def _shown(model: nn.Module, sample: Sample) -> Iterator[tuple[Tensor, DetDataSample, Objects]]:
    """Input, data sample and ground truth of each image of a sample; objects without a pixel are left out."""
    for data in sample.batches():
        inputs, one = one_sample(data, model)
        truth = truth_of(one.to_dict())
        kept = np.flatnonzero([coco_mask.area(rle) > 0 for rle in truth.rles])
        yield inputs, one, Objects(truth.boxes[kept], [truth.rles[i] for i in kept], truth.labels[kept])


def _ious(model: nn.Module, sample: Sample) -> list[np.ndarray]:
    """Mask IoU of the objects of each image from their own boxes and classes."""
    model.eval()
    found = []
    with torch.inference_mode():
        for inputs, one, truth in _shown(model, sample):
            given = grids_for_boxes(model, model.extract_feat(inputs), one.metainfo, truth.boxes, truth.labels)
            ious = []
            for i, (label, rle) in enumerate(zip(truth.labels.tolist(), truth.rles, strict=True)):
                probabilities, window = paste(given.channel(i, label), given.boxes[i], *rle['size'])
                ious.append(iou_at(probabilities, truth_in(rle, window), float(coco_mask.area(rle)), _HALF))
            found.append(np.array(ious))
    return found


def _ceilings(cfg: Config, one: DetDataSample, truth: Objects) -> np.ndarray:
    """What the mask grid allows the objects of an image; 1 where there is none of fixed size."""
    own, _ = own_grid(cfg)
    if own is None:
        return np.ones(len(truth.rles))
    rcnn = cfg.model.train_cfg.rcnn
    soft = bool((rcnn[-1] if isinstance(rcnn, (list, tuple)) else rcnn).get('soft_mask_target', False))
    image, shape = {'height': one.ori_shape[0], 'width': one.ori_shape[1]}, tuple(one.img_shape[:2])
    shown = [{'segmentation': rle, 'bbox': box.tolist()} for rle, box in zip(truth.rles, truth.boxes, strict=True)]
    return np.array([instance_ceilings(one, image, shape, [own], bitmaps=True, soft=soft)[0] for one in shown])


def outcome(found: Trial) -> str:
    """``passed``; ``unstable``: the loss is no number; ``untrained``: nothing reaches the mask head; ``stuck``: it stands
    low and does not rise enough; ``open``: none of these is sure."""
    if found.best.mean >= found.goal:
        return 'passed'
    if found.mask_losses and math.isnan(found.mask_losses[-1]):
        return 'unstable'
    head = found.moved.get('mask_head')
    if found.iterations >= _WARM_UP and head is not None and (not head.changed or not any(found.mask_losses)):
        return 'untrained'
    enough = found.iterations >= limit('overfit_iterations')
    if enough and found.reach < found.goal and found.level < limit('overfit_poor') * found.ceiling:
        return 'stuck'
    return 'open'


def judge(found: Trial) -> Experiment:
    """What the attempt says of the run."""
    gain = paired(found.points[0].ious, found.best.ious, found.images)
    which = outcome(found)
    answer = {
        'passed': 'Passed: pipeline, model and loss can learn masks. What is missing in the run is data, time, or what '
        'these images do not show. Annotations that are wrong alike everywhere are learnt too; boxes, classes and scores '
        f'were not looked at.{_about_rates(found)}',
        'unstable': 'Not passed: the loss is no number.',
        'untrained': 'Not passed: nothing that is trained reaches the mask head.',
        'stuck': f'Not passed, and it does not rise to it: even {_images(found)} images cannot be learnt.',
        'open': f'Not settled: {_still_open(found)}{_about_rates(found)}',
    }[which]
    findings = () if which in ('passed', 'open') else (_cause(found, which),)
    return Experiment('overfit', gain.before, gain.after, gain.error, gain.objects, f'{_curve(found)} {answer}', findings)


def _images(found: Trial) -> int:
    return len(np.unique(found.images))


def _curve(found: Trial) -> str:
    """The course in words."""
    goal = f'{found.goal:.3f}, {limit("overfit"):g} of the {found.ceiling:.3f} that the grid allows'
    begin = f'{_images(found)} training images, {len(found.images)} objects, weights of {found.start}, masks from own boxes'
    if not found.iterations:
        return f'{begin}: mask IoU {found.points[0].mean:.3f} before any step; the goal is {goal}.'
    course = (
        f'best {found.best.mean:.3f} after {found.best.iteration} of {found.iterations} iterations ({found.seconds:.0f} s)'
    )
    return (
        f'{begin}: mask IoU {found.points[0].mean:.3f} at the start, {course}, {found.points[-1].mean:.3f} at the end; the '
        f'goal is {goal}.'
    )


def _still_open(found: Trial) -> str:
    if found.iterations < limit('overfit_iterations'):
        return (
            f'{found.iterations} iterations in {found.seconds:.0f} s are too few to tell, {limit("overfit_iterations"):.0f} '
            'are needed. Give it more time: --budget SECONDS, or a GPU.'
        )
    if found.reach >= found.goal:
        return 'it was still rising when the time was over. Give it more: --budget SECONDS.'
    return (
        f'the masks are learnt to {found.level / found.ceiling:.0%} of what the grid allows, and no further at these rates: '
        'nothing is broken, as far as this can tell.'
    )


def _about_rates(found: Trial) -> str:
    """What speaks for rates that are too low; empty where nothing does."""
    mask, box, moved = found.rates.get('mask_head'), found.rates.get('bbox_head'), found.moved['mask_head'].moved
    if mask and box and mask < limit('overfit_rate') * box:
        return f" The mask head's rate is {mask / box:.2g} times the box head's: the run may have needed more."
    if found.iterations >= limit('overfit_iterations') and moved < limit('overfit_moved'):
        return f' The weights of the mask head moved by no more than {moved:.2%}: the rates may be too low.'
    return ''


def _cause(found: Trial, which: str) -> Cause:
    """The finding, with what points to the reason."""
    losses = np.array(found.mask_losses)
    early, late = (float(np.mean(part)) for part in np.array_split(losses, 3)[::2])
    rates = _about_rates(found)
    confidence, source = 0.8, LIMITS['overfit_poor'].source
    if which == 'unstable':
        what = f'the loss is no number after {found.iterations} iterations at the highest rates of the run'
        remedy, confidence, source = 'Lower rates, and gradients that are clipped.', 0.7, 'a fact of the experiment'
    elif which == 'untrained':
        why = 'the mask loss is always 0' if not losses.any() else 'the mask head is to the bit what it was'
        what = f'after {found.iterations} iterations {why}'
        remedy = 'Look for a loss weight of 0, a rate of 0, requires_grad=False, images without an object.'
        confidence, source = 1.0, 'a fact of the experiment'
    else:
        what = (
            f'after {found.iterations} iterations on {_images(found)} images the mask IoU is {found.level:.3f}, from '
            f'{found.points[0].mean:.3f}; the grid allows {found.ceiling:.3f}. The mask loss went from {early:.3f} to '
            f'{late:.3f}'
        )
        if rates:
            remedy = 'A higher rate of the mask head, or of all parts, and then this once more.'
        else:
            remedy = (
                'Take the transforms of train_dataloader out one after the other: one may move or change masks against '
                'image and boxes, or give them to other objects (`mmext check CONFIG --show DIR` draws the files). Then the '
                'mask loss, if it is one of your own.'
            )
    return Cause(
        'cannot-overfit',
        'severe',
        f'{what}.{rates}',
        remedy=remedy,
        cause='even a few images cannot be learnt: pipeline, model, loss or rates are broken',
        confidence=confidence,
        source=source,
    )
