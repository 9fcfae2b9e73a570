"""A trained model as a function of images. From Python: ``Predictor('my.py', 'work_dirs/my/epoch_12.pth')(['a.tif'])``."""

import contextlib
import copy
import io
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from mmext.errors import InputError, did_you_mean
from mmext.heads.window_output import give_rles
from mmext.hooks.cpu_precision import compute_in
from mmext.metrics.mask_quality import encoded
from mmext.model import build_model, load_weights
from mmext.optim.group_report import load_config
from mmext.predict.instances import Instances
from mmext.predict.model_config import (
    class_names,
    detections_kept,
    microscope_loader,
    model_threshold,
    test_pipeline,
    with_thresholds,
)
from mmext.transforms.load_microscope_image import LoadMicroscopeImage

Image = str | Path | np.ndarray
Loaded = dict
Found = TypeVar('Found')


class NoMasksError(InputError):
    """A model that finds boxes alone: of no image there will be a mask."""


# so little under the threshold that the model itself may leave out what is below: it compares in single precision
_SLACK = 1e-4


class Predictor:
    """Finds the instances of images as MMDetection's own test does: same pipeline, same model, same masks.

    Safe to call from several threads. Each has its own transforms, as nothing keeps one of a person's config from holding
    what it works on. Reading images and transforms then run side by side. The network has a lock: a forward pass uses the
    whole device already, several at a time would take the memory of several batches, and nothing keeps a module from holding
    what it has computed.

    Mask heads that draw as MMDetection's FCNMaskHead does give RLEs here, with the same pixels, so that memory does not grow
    with the image times the detections.

    Args:
        config: a config file, the name of a recipe, or a Config.
        checkpoint: a file with the weights of its model.
        device: of torch, such as ``cuda:1``; None takes the GPU if there is one.
        batch_size: images in a forward pass. A list is taken so many images at a time, as they stand in it, and those of
            them that have one size at the network's input share a pass, since padding to a larger one would change what is
            found. So many images are held at a time, too.
        score_thr: detections of this score and more are kept: a number, or one for each class by name; None: all that the
            config keeps.
        mask_thr: probability from which a pixel belongs to the mask, at full size; None: the config's, which is 0.5 in
            MMDetection's. It is ``test_cfg.rcnn.mask_thr_binary`` of models with a mask head for each box, and
            ``test_cfg.mask_thr`` of SOLO, CondInst and RTMDet-Ins; other families have none.
        max_per_img: most detections an image; None: the config's, which is usually 100.
        classes: names of those to keep; None: all.
        cfg_options: ``KEY=VALUE`` settings of the config, as for ``mim train``.
        precision: ``auto``, ``bf16`` or ``fp32`` compute faster on a CPU, and the last digits of scores and boxes, in bf16
            more of them, are others: see :func:`mmext.hooks.cpu_precision.compute_in`. None: as MMDetection, to the bit.

    Attributes:
        class_names: of all classes, in the order of the labels.
        thresholds: class name to score.
        remarks: lines about how it computes.
        max_per_img: most detections an image, None without a limit.
        full: how many images, or tiles, had so many that would be kept: others may have been cut off.

    Raises:
        InputError: config, checkpoint or a setting cannot be used.
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        device: str | None = None,
        batch_size: int = 1,
        score_thr: float | Mapping[str, float] | None = None,
        mask_thr: float | None = None,
        max_per_img: int | None = None,
        classes: Sequence[str] | None = None,
        cfg_options: Sequence[str] = (),
        precision: str | None = None,
    ):
        if isinstance(config, Config) and cfg_options:
            raise InputError('cfg_options: they change a config file; a Config can be changed itself: cfg.merge_from_dict.')
        register_all_modules(init_default_scope=False)
        with contextlib.redirect_stdout(io.StringIO()):  # MMEngine says what it loads
            self.cfg = copy.deepcopy(config) if isinstance(config, Config) else load_config(str(config), cfg_options)
            init_default_scope(self.cfg.get('default_scope', 'mmdet'))
            changed = with_thresholds(self.cfg, mask_thr, max_per_img)
            self.max_per_img = detections_kept(changed)
            model = build_model(changed)
            meta = load_weights(model, Path(checkpoint))
        give_rles(model)
        self.class_names = class_names(self.cfg, meta, model, str(checkpoint))
        self._kept = _kept_classes(classes, self.class_names)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f'batch_size: {batch_size!r} is not a whole number from 1.')
        self.batch_size, self.full = batch_size, 0
        self._own_threshold = model_threshold(model)
        self.device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        try:
            self.model = model.to(self.device).eval()
        except Exception as error:  # torch has an error of its own for each kind of device that is not there
            reason = str(error).strip().splitlines()[0]
            raise InputError(f'device: {self.device!r} cannot be used: {reason}. Use cpu, cuda or cuda:N.') from None
        self.remarks = [] if precision is None else compute_in(self.model, precision)
        self.set_score_thr(score_thr)
        self.pipeline_cfg = test_pipeline(self.cfg)
        self._own = threading.local()
        self._network = threading.Lock()
        self._transforms()  # a mistake in the pipeline shows now, and not at the first image

    def set_score_thr(self, score_thr: float | Mapping[str, float] | None) -> None:
        """Change ``score_thr``; not while another thread predicts."""
        self.thresholds = _thresholds(score_thr, self.class_names)
        self._least = np.array([self.thresholds.get(name, -np.inf) for name in self.class_names])
        if self._own_threshold is not None:
            kept = self._least[sorted(self._kept)]
            self.model.roi_head.test_cfg['score_thr'] = max(self._own_threshold, float(kept.min()) - _SLACK)

    def __call__(self, images: Image | Iterable[Image]) -> list[dict]:
        """Find the instances of images; of them a batch is held at a time, and the results.

        Args:
            images: paths, or arrays in the order that cv2.imread gives: (H, W, 3) blue, green, red, or (H, W) grey. Arrays
                that are not uint8 are scaled as :class:`mmext.transforms.LoadMicroscopeImage` scales files.

        Returns:
            For each image, best score first: ``masks`` bool (N, H, W), ``labels`` int64 (N,) from 0, ``scores`` float32
            (N,), ``boxes`` float32 (N, 4) x1, y1, x2, y2, both in pixels of the original image, and ``class_names``.

        Raises:
            InputError: an image that cannot be read.
        """
        images = [images] if isinstance(images, (str, Path, np.ndarray)) else images
        return self._of_images(images, self._arrays)

    def instances(self, images: Iterable[Image]) -> list[Instances]:
        """As calling it, with masks as RLE, whose memory follows the objects and not the images."""
        return self._of_images(images, self._instances)

    def load(self, image: Image) -> Loaded:
        """An image through the test pipeline: input for :meth:`find`.

        Raises:
            InputError: it cannot be read.
        """
        loader, rest = self._transforms()
        name = 'image' if isinstance(image, np.ndarray) else str(image)
        results = {'img_path': name, 'img_id': 0}
        if isinstance(image, np.ndarray):
            scaling = loader if isinstance(loader, LoadMicroscopeImage) else LoadMicroscopeImage()
            colours = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
            results |= scaling.results_of(scaling.shown(colours, name))
        else:
            try:
                results = loader(results)
            except InputError:
                raise
            except Exception as error:  # a loader of the person's own
                raise InputError(f'{name}: {type(error).__name__}: {error}') from error
            if results is None:  # ignore_empty
                raise InputError(f'{name}: cannot be read.')
        return rest(results)

    def find(self, loaded: Sequence[Loaded]) -> list[Instances]:
        """The instances of loaded images."""
        return self._found(loaded, self._instances)

    def read(self, image: str | Path) -> np.ndarray:
        """The picture of a file as the network's pipeline loads it: (H, W, 3) uint8 BGR at its original size.

        Raises:
            InputError: it cannot be read.
        """
        return self._transforms()[0]({'img_path': str(image), 'img_id': 0})['img'].astype(np.uint8, copy=False)

    @property
    def loader(self) -> object:
        """The transform that loads images."""
        return self._transforms()[0]

    def _transforms(self) -> tuple:
        """Loader and the rest of the pipeline, those of the calling thread."""
        if not hasattr(self._own, 'transforms'):
            loader, *rest = copy.deepcopy(self.pipeline_cfg)
            try:
                # Compose builds a transform from the scope of the config, and takes one that is built as it is
                loader = microscope_loader(loader) or Compose([loader]).transforms[0]
                self._own.transforms = loader, Compose(rest)
            except InputError:
                raise
            except Exception as error:  # whatever a setting of the person's config makes a transform raise
                raise InputError(f'the test pipeline cannot be built: {type(error).__name__}: {error}') from error
        return self._own.transforms

    def _of_images(self, images: Iterable[Image], convert: Callable[[DetDataSample], Found]) -> list[Found]:
        found: list[Found] = []
        coming = iter(images)
        while batch := list(itertools.islice(coming, self.batch_size)):
            found += self._found([self.load(image) for image in batch], convert)
        return found

    def _found(self, loaded: Sequence[Loaded], convert: Callable[[DetDataSample], Found]) -> list[Found]:
        """The model's answers, batch after batch; only what ``convert`` makes of them is kept."""
        found: list = [None] * len(loaded)
        for places in batches([tuple(one['inputs'].shape) for one in loaded], self.batch_size):
            # no name here holds the answers, so that the next pass has their memory
            results = [convert(answer) for answer in self._answers([loaded[place] for place in places])]
            for place, result in zip(places, results, strict=True):
                found[place] = result
        return found

    @torch.no_grad()
    def _answers(self, batch: Sequence[Loaded]) -> list[DetDataSample]:
        """The model's answers to images of one size, in one pass."""
        with self._network:
            answers = self.model.test_step(pseudo_collate(batch))
            self.full += sum(self._is_full(answer) for answer in answers)
        if any('masks' not in answer.pred_instances for answer in answers):
            raise NoMasksError(f'{type(self.model).__name__} finds boxes and no masks; give a config with a mask head.')
        return answers

    def _is_full(self, sample: DetDataSample) -> bool:
        scores = sample.pred_instances.scores
        return len(scores) == self.max_per_img and bool(scores.min() >= self._least[sorted(self._kept)].min())

    def _chosen(self, sample: DetDataSample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of the detections that are kept, best score first, and labels and scores of all."""
        labels = sample.pred_instances.labels.cpu().numpy().astype(np.int64)
        scores = sample.pred_instances.scores.float().cpu().numpy()
        # a score of 0.7 in single precision is a little under 0.7 in double
        keep = (scores >= self._least.astype(np.float32)[labels]) & np.isin(labels, list(self._kept))
        order = np.argsort(-scores, kind='stable')
        return order[keep[order]], labels, scores

    def _instances(self, sample: DetDataSample) -> Instances:
        places, labels, scores = self._chosen(sample)
        masks = sample.pred_instances.masks
        rles = encoded(masks[torch.as_tensor(places, device=masks.device)] if torch.is_tensor(masks) else masks)
        rles = rles if torch.is_tensor(masks) else [rles[place] for place in places]
        boxes = _with_area(get_box_tensor(sample.pred_instances.bboxes).float().cpu().numpy()[places], rles)
        size = tuple(int(side) for side in sample.ori_shape[:2])
        return Instances(size, labels[places], scores[places], boxes, rles, self.class_names)

    def _arrays(self, sample: DetDataSample) -> dict:
        places, labels, scores = self._chosen(sample)
        masks = sample.pred_instances.masks
        boxes = get_box_tensor(sample.pred_instances.bboxes).float().cpu().numpy()[places]
        if not torch.is_tensor(masks) or not _have_area(boxes).all():
            found = self._instances(sample)
            masks, boxes = found.masks(), found.boxes
        else:
            masks = masks.cpu().numpy().astype(bool, copy=False)[places]
        return {
            'masks': masks,
            'labels': labels[places],
            'scores': scores[places],
            'boxes': boxes,
            'class_names': self.class_names,
        }


def batches(shapes: Sequence[tuple], batch_size: int) -> list[list[int]]:
    """Places of a list in batches of one shape each: of ``batch_size`` neighbours in the list those that share a shape."""
    found = []
    for start in range(0, len(shapes), batch_size):
        of_shape: dict[tuple, list[int]] = {}
        for place, shape in enumerate(shapes[start : start + batch_size], start):
            of_shape.setdefault(shape, []).append(place)
        found += of_shape.values()
    return found


def _have_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _with_area(boxes: np.ndarray, rles: Sequence[dict]) -> np.ndarray:
    """Boxes, those without area from their masks: SOLO finds masks alone, and MMDetection fills its boxes up with zeros."""
    lost = np.flatnonzero(~_have_area(boxes))
    if len(lost):
        own = coco_mask.toBbox([rles[i] for i in lost]).astype(np.float32)
        own[:, 2:] += own[:, :2]
        boxes = boxes.copy()
        boxes[lost] = own
    return boxes


def _thresholds(score_thr: float | Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    if score_thr is None:
        return {}
    found = dict(score_thr) if isinstance(score_thr, Mapping) else dict.fromkeys(names, score_thr)
    for name, value in found.items():
        if name not in names:
            raise InputError(f'score_thr: {name!r} is no class. {did_you_mean(name, names)}There are: {", ".join(names)}.')
        if not 0 <= float(value) <= 1:
            raise InputError(f'score_thr: {value} is not a score from 0 to 1.')
    return {name: float(value) for name, value in found.items()}


def _kept_classes(classes: Sequence[str] | None, names: Sequence[str]) -> set[int]:
    unknown = [name for name in classes or () if name not in names]
    if unknown or (classes is not None and not len(classes)):
        what = (
            f'{unknown[0]!r} is no class of the model. {did_you_mean(unknown[0], names)}' if unknown else 'none is named. '
        )
        raise InputError(f'classes: {what}There are: {", ".join(names)}.')
    return {label for label, name in enumerate(names) if classes is None or name in classes}
