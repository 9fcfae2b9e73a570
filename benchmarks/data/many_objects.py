"""Hundreds of objects in an image: what `mmext init` writes for them, and stock MMDetection with the limits it comes with.

``python benchmarks/data/many_objects.py [--images 40] [--epochs 4] [--out FILE]``

The demo's network. Stock has MMDetection's parts, hooks and limits; mmext has what `mmext init` writes, with all that it
logs and measures.

- trainings: `mim train` on made images of 256 x 256 with about 250 particles of 8 to 14 px, and the last validation;
- limits: the weights that mmext has trained, validated with other limits on anchors, proposals and detections;
- proposals: share of the objects that have a proposal of IoU 0.5, by the anchors of a level that go into NMS and by the
  proposals that are kept. What mmext.data.caps asks for is read off this table;
- memory: of the process of one training iteration and one validation image of 1280 x 1280, 25 scenes of the demo side by
  side, with 25 to 1,000 objects; stock with up to 250, since 1,000 would take it about 20 GB.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner
from rich.table import Table

from mmext.console import console
from mmext.data.caps import as_changes, model_caps
from mmext.data.coco_file import objects_per_image, read_coco
from mmext.data.demo import SIDE, Kind, Outline, write_part
from mmext.data.own_data import write_config
from mmext.model import build_model, load_weights
from mmext.optim.group_report import load_config

sys.path.insert(0, str(Path(__file__).parents[1] / 'performance'))
from made import write_large
from side_by_side import machine
from whole_runs import SHIPPED, STOCK, three_ways, train

RECIPE = 'mask-rcnn_r18_fpn_finetune_differential-10x'
GRID = 16  # a particle in each cell of 16 x 16 px, half of them dark
# of the images that memory is measured with: scenes a side, objects in each, and the most of them with stock
SCENES, PER_SCENE, MOST_STOCK = 5, (1, 4, 10, 40), 10
KEPT = (1, 1.25, 2, 4, 8)  # proposals an object
BEFORE = (1, 2, 4, 8, 16)  # anchors of a level an object
HIT = 0.5  # IoU of a proposal that has found its object
_OURS = SHIPPED.partition(',')[0]
Parts = dict[str, tuple[Path, Path]]


def in_cells(first: int) -> Callable[[np.random.Generator], Outline]:
    """Outlines of small particles, one in every other cell of an image, from the first or the second cell on."""
    cells = itertools.cycle(cell for cell in range(GRID**2) if (cell + cell // GRID) % 2 == first)

    def particle(rng: np.random.Generator) -> Outline:
        cell, corners = next(cells), 10
        angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners
        centre = (np.array([cell % GRID, cell // GRID]) + rng.uniform(0.4, 0.6, 2)) * SIDE / GRID
        return centre + rng.uniform(4, 7) * np.stack([np.cos(angles), np.sin(angles)], 1)

    return particle


def particles() -> dict[str, Kind]:
    """Two classes for :func:`mmext.data.demo.write_part`, as many in an image as there are cells."""
    number = (GRID**2 // 2,) * 2
    return {'Dark': (in_cells(0), number, (0.7, 0.95), (30, 80)), 'Pale': (in_cells(1), number, (0.5, 0.7), (110, 150))}


def small_parts(folder: Path, images: int) -> Parts:
    """Images to train and to validate on, with a particle in each cell."""
    for place, (part, number) in enumerate((('train', images), ('val', images // 4))):
        list(write_part(folder / part, number, (0, place), particles()))
    return {part: (folder / part / 'annotations.json', folder / part) for part in ('train', 'val')}


def large_parts(folder: Path, per_scene: int) -> Parts:
    """An image of many scenes of the demo to train on, and one to validate on."""
    return {
        part: (write_large(folder / part, 1, (per_scene, place), SCENES, SCENES, per_scene), folder / part)
        for place, part in enumerate(('train', 'val'))
    }


def sides_of(cfg: Config) -> dict[str, Config]:
    """The config of each side, of what `mmext init` has written."""
    stock, ours = Config(cfg.to_dict()), cfg
    recipe = load_config(RECIPE).model
    stock.model.test_cfg, stock.model.train_cfg = recipe.test_cfg, recipe.train_cfg
    stock.val_evaluator.pop('max_detections', None)
    for side in (stock, ours):
        side.val_evaluator.metric_items = ['mAP', 'mAP_50', f'AR@{side.val_evaluator.get("max_detections", 1000)}']
        side.test_evaluator = side.val_evaluator
    return {STOCK: three_ways(stock)[STOCK], SHIPPED: three_ways(ours)[SHIPPED]}


def small_config(parts: Parts, folder: Path, epochs: int) -> Config:
    """What `mmext init` writes."""
    write_config(*parts.values(), RECIPE, folder / 'config.py')
    return load_config(str(folder / 'config.py'), [f'train_cfg.max_epochs={epochs}', f'train_cfg.val_interval={epochs}'])


def large_config(parts: Parts, folder: Path) -> Config:
    """The same for images that are not made smaller: the recipe has an input of 256 px, and so gets crops of them.

    The part of the data is what is written for a recipe with a larger input, limits are by the same function.
    """
    write_config(*parts.values(), 'mask-rcnn_r50_fpn_finetune', folder / 'config.py')
    written = load_config(str(folder / 'config.py'))
    cfg = load_config(RECIPE, ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.logger.interval=1'])
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].batch_size, cfg[name].dataset = 1, written[name].dataset
        for step in cfg[name].dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (SCENES * SIDE,) * 2
    train_most, val_most = (max(objects_per_image(read_coco(file)).values()) for file, _ in parts.values())
    cfg.merge_from_dict({'model': as_changes(model_caps(cfg.model, train_most, max(train_most, val_most)))})
    cfg.val_evaluator = {**cfg.val_evaluator, **written.val_evaluator}
    return cfg


def short(metrics: dict[str, float]) -> dict[str, float]:
    """Precision and recall of all that is kept, by name: ``segm mAP``, ``segm AR``."""
    names = {key: key.removeprefix('coco/').partition('@')[0].replace('_', ' ', 1) for key in metrics}
    return {name: metrics[key] for key, name in names.items() if key.startswith('coco/')}


def trainings(folder: Path, images: int, epochs: int) -> dict[str, dict]:
    """Numbers and most bytes of each side's training; configs and work_dirs stay in the folder."""
    parts, found = small_parts(folder, images), {}
    for name, cfg in sides_of(small_config(parts, folder, epochs)).items():
        work_dir = folder / name.partition(',')[0]
        peak, _ = train(cfg, work_dir)
        log = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
        last = [line for line in map(json.loads, log) if 'coco/segm_mAP' in line][-1]
        found[name] = {**short(last), 'peak_bytes': peak}
        print(name, found[name], flush=True)
    return found


def limits(cfg: Config, checkpoint: Path, folder: Path) -> list[dict]:
    """Numbers of the same weights with limits of the recipe and of mmext."""
    usual, ours = load_config(RECIPE).model.test_cfg, cfg.model.test_cfg
    cases = [
        (usual.rpn.nms_pre, usual.rpn.max_per_img, usual.rcnn.max_per_img),
        (250, usual.rpn.max_per_img, ours.rcnn.max_per_img),
        (usual.rpn.nms_pre, 250, ours.rcnn.max_per_img),
        (usual.rpn.nms_pre, usual.rpn.max_per_img, ours.rcnn.max_per_img),
        (ours.rpn.nms_pre, ours.rpn.max_per_img, ours.rcnn.max_per_img),
    ]
    rows = []
    for number, (anchors, proposals, detections) in enumerate(cases):
        changed = Config(cfg.to_dict())
        changed.model.test_cfg.rpn.update(nms_pre=anchors, max_per_img=proposals)
        changed.model.test_cfg.rcnn.max_per_img = detections
        changed.load_from, changed.work_dir, changed.custom_hooks = str(checkpoint), str(folder / str(number)), []
        changed.experiment_name = f'limits {number}'
        numbers = short(Runner.from_cfg(changed).test())
        rows.append({'nms_pre': anchors, 'proposals': proposals, 'detections': detections, **numbers})
        print(rows[-1], flush=True)
    return rows


@torch.no_grad()
def proposals_found(cfg: Config, checkpoint: Path) -> list[dict[str, float]]:
    """Share of the objects of the validation images with a proposal: a row for each number of anchors an object, and a
    column for each number of proposals."""
    model = build_model(cfg).eval()
    load_weights(model, checkpoint)
    hits, objects = {anchors: dict.fromkeys(KEPT, 0) for anchors in BEFORE}, 0
    for batch in Runner.build_dataloader({**cfg.val_dataloader, 'batch_size': 1}, seed=0):
        data = model.data_preprocessor(batch, False)
        (sample,), features = data['data_samples'], model.extract_feat(data['inputs'])
        truth = get_box_tensor(sample.gt_instances.bboxes) * torch.tensor(sample.scale_factor).repeat(2)
        objects += len(truth)
        for anchors, kept in itertools.product(BEFORE, KEPT):
            model.rpn_head.test_cfg.update(nms_pre=anchors * len(truth), max_per_img=int(kept * len(truth)))
            (proposals,) = model.rpn_head.predict(features, [sample], rescale=False)
            hits[anchors][kept] += int((bbox_overlaps(truth, proposals.bboxes).amax(1) >= HIT).sum())
    return [{'anchors': anchors, **{str(kept): hit / objects for kept, hit in row.items()}} for anchors, row in hits.items()]


def memory(folder: Path) -> dict[str, dict[int, int]]:
    """Most bytes of the process of one training iteration and one validation image, by side and number of objects."""
    found: dict[str, dict[int, int]] = {STOCK: {}, SHIPPED: {}}
    for per_scene in PER_SCENE:
        here = folder / str(per_scene)
        sides = sides_of(large_config(large_parts(here, per_scene), here))
        for name in [STOCK, SHIPPED] if per_scene <= MOST_STOCK else [SHIPPED]:
            cfg = sides[name]
            cfg.model.test_cfg.rcnn.score_thr = 0.0  # so that as many detections are kept as may be
            found[name][per_scene * SCENES**2], _ = train(cfg, here / name.partition(',')[0])
            print(name, found[name], flush=True)
    return found


def show(title: str, rows: list[dict]) -> None:
    """Print records as a table."""
    table = Table(*map(str, rows[0]), title=title, title_justify='left')
    for row in rows:
        table.add_row(*(f'{value:.3f}' if isinstance(value, float) else str(value) for value in row.values()))
    console().print(table)


def in_mib(number: int) -> str:
    return f'{number / 2**20:,.0f} MiB'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=40, help='to train on, a quarter as many to validate (default 40)')
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'))
    chosen = parser.parse_args()
    register_all_modules(init_default_scope=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = trainings(folder, chosen.images, chosen.epochs)
        cfg, checkpoint = Config.fromfile(folder / _OURS / 'config.py'), folder / _OURS / f'epoch_{chosen.epochs}.pth'
        record = {
            'machine': machine(),
            'images': chosen.images,
            'epochs': chosen.epochs,
            'trainings': trained,
            'limits': limits(cfg, checkpoint, folder / 'limits'),
            'proposals': proposals_found(cfg, checkpoint),
            'memory': memory(folder / 'memory'),
        }
    chosen.out.write_text(json.dumps(record, indent=1) + '\n')
    sides = [{'': side, **row, 'peak_bytes': in_mib(row['peak_bytes'])} for side, row in trained.items()]
    show('Trained on images with 250 objects', sides)
    show('The same weights with other limits', record['limits'])
    show('Share of the objects with a proposal, by proposals an object', record['proposals'])
    peaks = [
        {'objects': number, **{side: in_mib(of[number]) if number in of else '' for side, of in record['memory'].items()}}
        for number in record['memory'][SHIPPED]
    ]
    show('Most memory of the process', peaks)
    return 0


if __name__ == '__main__':
    sys.exit(main())
