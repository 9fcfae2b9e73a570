"""bf16 and channels_last on the CPU: a training iteration and a prediction of Mask R-CNN R50-FPN.

``python benchmarks/performance/cpu_precision.py [--rounds 3] [--data DIR] [--out FILE]``

The fine-tuning recipe with its heads and its sampling, two images of 512x640, loading not included; made images, with
``--data`` that folder's first too. Weights are drawn and the statistics of the frozen norms are the images' own, so nothing
is downloaded. A processor that has no bf16 gets the rows in fp32 alone.
"""

import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from side_by_side import coco_parts, must_equal, options, side_by_side, write
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmext
from mmext.data.demo import write_part
from mmext.hooks.cpu_precision import compute_in, processor_has_bf16
from mmext.model import build_model
from mmext.predict.predictor import Predictor

RECIPE = 'mask-rcnn_r50_fpn_finetune'
SIZE = (640, 512)  # width, height
STOCK = 'fp32 as MMDetection computes'
# of training: ratio aimed at, how far the RPN's losses may be off, and the others: of RoIs others are drawn when the last
# digits of proposals change; of prediction: how far features may be off, as a share of the largest
BOUNDS = {'fp32': 1.2, 'bf16': 1.8}
RPN_LOSS = {'fp32': 1e-4, 'bf16': 0.01}
ANY_LOSS = {'fp32': 0.01, 'bf16': 0.1}
FEATURES = {'fp32': 1e-4, 'bf16': 0.05}


def config_of(ann_file: Path, images: Path) -> Config:
    """The recipe on a folder of images, each resized to ``SIZE``."""
    cfg = Config.fromfile(mmext.recipe(RECIPE))
    classes = [category['name'] for category in json.loads(ann_file.read_text())['categories']]
    dataset = {'data_root': '', 'ann_file': str(ann_file), 'data_prefix': {'img': f'{images}/'}}
    cfg.merge_from_dict(
        {
            'load_from': None,
            'model.backbone.init_cfg': None,
            'model.roi_head.bbox_head.num_classes': len(classes),
            'model.roi_head.mask_head.num_classes': len(classes),
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.metainfo': {'classes': tuple(classes)},
            'test_dataloader.dataset.metainfo': {'classes': tuple(classes)},
            **{f'train_dataloader.dataset.{key}': value for key, value in dataset.items()},
        }
    )
    for part in ('train', 'test'):
        for transform in cfg[f'{part}_dataloader'].dataset.pipeline:
            transform.update({'scale': SIZE, 'keep_ratio': False} if transform['type'] == 'Resize' else {})
    return cfg


def network(cfg: Config, batch: dict) -> nn.Module:
    """Weights drawn as a training without pretrained ones draws them; the norms' statistics are those of the batch."""
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.training = True
    with torch.no_grad():
        model.extract_feat(data['inputs'])
    return model.train()


def iteration(model: nn.Module, batch: dict) -> Callable[[], dict[str, float]]:
    """One step of training, always of the same batch and with the same random numbers, which gives the losses."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)
    data = model.data_preprocessor(batch, True)

    def step() -> dict[str, float]:
        torch.manual_seed(0)
        total, losses = model.parse_losses(model(**copy.deepcopy(data), mode='loss'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return {name: value.item() for name, value in losses.items() if 'loss' in name}

    return step


def training_row(model: nn.Module, batch: dict, data: str, precision: str, rounds: int) -> dict:
    fast = copy.deepcopy(model)
    compute_in(fast, precision)
    sides = {STOCK: iteration(copy.deepcopy(model), batch), f'mmext, {precision} and channels_last': iteration(fast, batch)}
    stock, ours = (step() for step in sides.values())
    for name, value in stock.items():
        limit = (RPN_LOSS if 'rpn' in name else ANY_LOSS)[precision]
        words = f'{name} of {data} in {precision} is {ours[name]:.6g}, in {STOCK} {value:.6g}'
        must_equal(abs(ours[name] - value) <= limit * abs(value), words)
    equal = f"the RPN's losses within {RPN_LOSS[precision]:.2%}, the others within {ANY_LOSS[precision]:.0%}"
    return side_by_side('training iteration', data, sides, rounds, equal, BOUNDS[precision])


def prediction_row(cfg: Config, checkpoint: Path, image: Path, data: str, precision: str, rounds: int) -> dict:
    """An image through the network and to RLEs."""
    predictors = {
        STOCK: Predictor(cfg, checkpoint, 'cpu'),
        f'mmext, {precision} and channels_last': Predictor(cfg, checkpoint, 'cpu', precision=precision),
    }
    loaded = predictors[STOCK].load(image)
    features = []
    for predictor in predictors.values():
        with torch.no_grad():
            prepared = predictor.model.data_preprocessor(pseudo_collate([copy.deepcopy(loaded)]), False)
            features.append(predictor.model.extract_feat(prepared['inputs']))
    for level, (stock, ours) in enumerate(zip(*features, strict=True)):
        off = float((ours - stock).abs().max() / stock.abs().max())
        must_equal(off <= FEATURES[precision], f'level {level} of the features of {data} in {precision} is off by {off:.2g}')
    equal = f"the neck's features within {FEATURES[precision]:g} of the largest"
    sides = {
        name: lambda predictor=predictor: predictor.find([copy.deepcopy(loaded)]) for name, predictor in predictors.items()
    }
    return side_by_side('prediction', data, sides, rounds, equal, BOUNDS[precision])


def rows_of(ann_file: Path, images: Path, data: str, precisions: list[str], rounds: int, folder: Path) -> list[dict]:
    cfg = config_of(ann_file, images)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    model = network(cfg, batch)
    checkpoint = folder / 'weights.pth'
    torch.save({'state_dict': model.state_dict()}, checkpoint)
    image = Path(batch['data_samples'][0].img_path)
    rows = [training_row(model, batch, data, precision, rounds) for precision in precisions]
    return rows + [prediction_row(cfg, checkpoint, image, data, precision, 2 * rounds) for precision in precisions]


def main() -> int:
    given = options(__doc__, 'cpu_precision', rounds=3)
    warnings.simplefilter('ignore')
    register_all_modules(init_default_scope=True)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    best = 'bf16' if processor_has_bf16() else 'fp32'
    if best == 'fp32':
        print('This processor has no bf16: its rows are left out.')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        list(write_part(folder / 'train', 4, (0, 0)))
        precisions = list(dict.fromkeys(('fp32', best)))
        made = (folder / 'train' / 'annotations.json', folder / 'train')
        rows = rows_of(*made, 'made', precisions, given.rounds, folder)
        if given.data:
            rows += rows_of(*coco_parts(given.data)['train'], given.data.name, [best], given.rounds, folder)
    write(rows, given.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
