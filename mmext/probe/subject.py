"""The run that is examined: its model with its weights, and a sample of its images with their ground truth."""

import contextlib
import copy
import inspect
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from mmext.analysis.runs import Run
from mmext.check.parts import DataPart, data_parts
from mmext.errors import InputError
from mmext.model import build_model, load_weights
from mmext.optim.group_report import load_config
from mmext.probe.masks import mask_head_of

IMAGES = 50  # of a part, at most: with five objects each the standard error of a mean IoU is about 0.01
OBJECTS = 1500  # of a part: no further image is taken once so many are there
_PACK = 'PackDetInputs'


@dataclass(frozen=True)
class Sample:
    """Images of one part, ``train`` or ``val``: a data set and the places in it; ``total`` how many have an object."""

    name: str
    places: tuple[tuple[object, int], ...]
    total: int

    def batches(self) -> Iterator[dict]:
        """One image at a time, as the validation pipeline gives it."""
        for dataset, place in self.places:
            yield pseudo_collate([dataset[place]])


@dataclass(frozen=True)
class Subject:
    """``model`` in eval mode with the weights of ``checkpoint``; ``cfg`` as the run dumped it; ``samples`` by part."""

    cfg: Config
    model: nn.Module
    checkpoint: Path
    samples: dict[str, Sample] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """``mask_thr_binary`` of the config."""
        return float(self.cfg.model.test_cfg.rcnn.get('mask_thr_binary', 0.5))


def find_checkpoint(work_dir: Path) -> Path:
    """The checkpoint that a run is judged by: its best one, else its last.

    Raises:
        InputError: it has none.
    """
    best = sorted(work_dir.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    if best:
        return best[-1]
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        named = Path(pointer.read_text().strip())
        # a work_dir that was moved names the place where it was
        found = [path for path in (work_dir / named.name, named) if path.is_file()]
        if found:
            return found[0]
    numbered = sorted(work_dir.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    if numbered:
        return numbered[-1]
    raise InputError(f'--deep: {work_dir} has no checkpoint (*.pth) to experiment on.')


def why_not(model: nn.Module) -> str | None:
    """Why the experiments do not apply to a model, in words; None when they do."""
    kind = type(model).__name__
    if mask_head_of(model) is None:
        return f'{kind} predicts no mask grid for each box'
    if list(inspect.signature(model.roi_head.predict_mask).parameters)[:3] != ['x', 'batch_img_metas', 'results_list']:
        return f'the mask branch of {type(model.roi_head).__name__} needs more than features and boxes'
    return None


def load_subject(run: Run, device: str, seed: int) -> Subject:
    """Build the model of a run, load its weights, and draw the samples.

    Args:
        run: as read from its work_dir.
        device: of torch.
        seed: of the samples.

    Raises:
        InputError: config, checkpoint or data cannot be used.
    """
    cfg = config_of(run)
    checkpoint = find_checkpoint(run.path)
    with contextlib.redirect_stdout(io.StringIO()):  # MMEngine says what it loads
        model = build_model(cfg)
        load_weights(model, checkpoint)
        samples = {} if why_not(model) else {name: _sample(cfg, name, seed) for name in ('train', 'val')}
    return Subject(cfg, model.to(device).eval(), checkpoint, samples)


def config_of(run: Run) -> Config:
    """The config that a run dumped, its scope set up.

    Raises:
        InputError: it cannot be read.
    """
    if run.config_file is None:
        raise InputError(f'{run.path}: {run.problem or "its config cannot be read"}.')
    with contextlib.redirect_stdout(io.StringIO()):
        cfg = load_config(str(run.config_file))
        init_default_scope(cfg.get('default_scope', 'mmdet'))
    return cfg


def _sample(cfg: Config, name: str, seed: int) -> Sample:
    parts = [part for part in data_parts(cfg) if part.name == name]
    if not parts:
        raise InputError(f'--deep: {name}_dataloader has no COCO data set.')
    places = []
    for part in parts:
        dataset = shown_dataset(cfg, part)
        for place in range(len(dataset)):
            objects = sum(not one.get('ignore_flag') for one in dataset.get_data_info(place)['instances'])
            if objects:
                places.append((dataset, place, objects))
    if not places:
        raise InputError(f'--deep: {parts[0].ann_file} has no image with an object.')
    order = np.random.default_rng([seed, name == 'val']).permutation(len(places))[:IMAGES]
    before = np.cumsum([0, *(places[i][2] for i in order)])[:-1]
    taken = sorted(order[before < OBJECTS])
    return Sample(name, tuple(places[i][:2] for i in taken), len(places))


def shown_dataset(cfg: Config, part: DataPart) -> object:
    """All images of a part through the validation pipeline, with masks.

    Raises:
        InputError: there is no such pipeline, or the data set cannot be built.
    """
    loader = cfg.get('val_dataloader') or cfg.get('test_dataloader')
    if not loader:
        raise InputError('the config has no val_dataloader, whose pipeline shows images as in validation.')
    pipeline = next(iter(data_parts(Config({'val_dataloader': loader})))).dataset.pipeline
    pipeline = [copy.deepcopy(one) for one in pipeline]
    if not any('Load' in one['type'] and (one.get('with_mask') or 'InstanceMasks' in one['type']) for one in pipeline):
        pipeline = [one for one in pipeline if one['type'] != 'LoadAnnotations']
        place = next((i for i, one in enumerate(pipeline) if one['type'] == _PACK), len(pipeline))
        pipeline.insert(place, {'type': 'mmext.LoadInstanceMasks'})
    dataset = copy.deepcopy(part.dataset)
    dataset.pipeline, dataset.test_mode = pipeline, True
    try:
        return DATASETS.build(dataset)
    except Exception as error:  # files that have been moved away, above all
        raise InputError(f'{part.name}: {part.ann_file}: {type(error).__name__}: {error}') from error


def one_sample(data: dict, model: nn.Module) -> tuple[torch.Tensor, object]:
    """Network input (1, 3, H, W) and data sample of a batch of one image."""
    data = model.data_preprocessor(data, False)
    return data['inputs'], data['data_samples'][0]
