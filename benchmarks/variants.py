"""Variants of the mask branch at equal budget: ``python benchmarks/variants.py [--seeds 0 1 2] [--epochs 8] [--jobs 1]``.

Trains each variant on the demo's made data through ``mim train mmdet``, once a seed, and prints means and spreads; then
cross-entropy against GCE where 30 % of the mask pixels are the contrary. What has been trained in --work-dirs is not trained
again. Time per iteration is measured apart, in one process, in turns with the base.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from flipped_targets import flip_annotations
from mmdet.utils import register_all_modules
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint
from rich.table import Table

from mmext.analysis.runs import read_run
from mmext.console import console
from mmext.data.demo import write_part
from mmext.optim.group_report import load_config

HERE = Path(__file__).resolve().parent
FLIPPED = 0.3
BASE = 'base (28)'
RECIPE = 'mask-rcnn_r18_fpn_finetune_differential-10x'
_MASK = 'model.roi_head.mask_head'
_GCE = [f'{_MASK}.loss_mask._delete_=True', f'{_MASK}.loss_mask.type=mmext.GCELoss']
_TARGETS = [f'{_MASK}.type=mmext.FlippedTargetsMaskHead', f'{_MASK}.share={FLIPPED}']
_FILES = ['train_dataloader.dataset.ann_file={data}/train/flipped_{seed}.json']
# for a family of which there is no recipe with them
_DIFFERENTIAL = [
    *(
        f'optim_wrapper.optimizer.{key}'
        for key in ('_delete_=True', 'type=SGD', 'lr=2e-3', 'momentum=0.9', 'weight_decay=5e-4')
    ),
    *(
        f'optim_wrapper.paramwise_cfg.custom_keys.{part}.lr_mult={multiple}'
        for part, multiple in (('backbone', 1), ('neck', 1), ('rpn_head', 5), ('roi_head', 10))
    ),
]
# name: recipe, and what is changed in it
VARIANTS = {
    BASE: (RECIPE, []),
    '56': (
        RECIPE,
        ['model.roi_head.mask_roi_extractor.roi_layer.output_size=28', 'model.train_cfg.rcnn.mask_size=56'],
    ),
    'PointRend': ('point-rend_r18_fpn_finetune', _DIFFERENTIAL),
    'boundary': (
        RECIPE,
        [f'{_MASK}.type=mmext.BoundaryMaskHead', f'{_MASK}.loss_boundary.type=mmext.BoundaryLoss'],
    ),
    'GCE': (RECIPE, _GCE),
    'soft-mask': (
        RECIPE,
        [f'{_MASK}.loss_mask._delete_=True', f'{_MASK}.loss_mask.type=mmext.SoftMaskLoss'],
    ),
    'targets flipped, BCE': (RECIPE, _TARGETS),
    'targets flipped, GCE': (RECIPE, _TARGETS + _GCE),
    'annotations flipped, BCE': (RECIPE, _FILES),
    'annotations flipped, GCE': (RECIPE, _FILES + _GCE),
}
EQUAL_BUDGET = ('base (28)', '56', 'PointRend', 'boundary', 'GCE', 'soft-mask')
# each with what it is held against
NOISE = {
    BASE: None,
    'GCE': BASE,
    'targets flipped, BCE': BASE,
    'targets flipped, GCE': 'targets flipped, BCE',
    'annotations flipped, BCE': BASE,
    'annotations flipped, GCE': 'annotations flipped, BCE',
}
METRICS = {
    'box AP': 'coco/bbox_mAP',
    'mask AP': 'coco/segm_mAP',
    'matched IoU': 'mask/iou',
    'boundary IoU': 'mask/boundary_iou',
}


def changes(name: str, data: Path, seed: int, epochs: int) -> list[str]:
    """The --cfg-options of a run."""
    options = [option.format(data=data, seed=seed) for option in VARIANTS[name][1]]
    for loader in ('train_dataloader', 'val_dataloader'):
        options.append(f'{loader}.dataset.data_root={data}')
    return [
        *options,
        f'val_evaluator.ann_file={data}/val/annotations.json',
        f'randomness.seed={seed}',
        f'train_cfg.max_epochs={epochs}',
        f'train_cfg.val_interval={epochs}',
    ]


def train(name: str, seed: int, data: Path, work_dir: Path, epochs: int) -> None:
    """One run in a process of its own; its output goes to console.txt."""
    config = data / f'{VARIANTS[name][0]}.py'
    command = [Path(sys.executable).with_name('mim'), 'train', 'mmdet', config]
    command += ['--work-dir', work_dir, '--cfg-options', *changes(name, data, seed, epochs)]
    work_dir.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'PYTHONPATH': str(HERE)}
    with (work_dir / 'console.txt').open('w') as output:
        done = subprocess.run([*map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        sys.exit(f'{name}, seed {seed} failed; its output is in {work_dir / "console.txt"}')


def write_inputs(folder: Path, seeds: Iterable[int]) -> None:
    """The images of `make demo`, for each seed an annotation file with flipped pixels, and a config for each recipe.

    The config imports the head that flips targets: MMDetection's train script imports before it reads --cfg-options.
    """
    for recipe in {recipe for recipe, _ in VARIANTS.values()}:
        (folder / f'{recipe}.py').write_text(
            f"_base_ = __import__('mmext').recipe({recipe!r})\n"
            "custom_imports = dict(imports=['mmext.registry', 'flipped_targets'], allow_failed_imports=False)\n"
        )
    for number, (part, images) in enumerate((('train', 60), ('val', 20))):
        if not (folder / part / 'annotations.json').exists():
            list(write_part(folder / part, images, (0, number)))
    for seed in seeds:
        source = folder / 'train' / 'annotations.json'
        flip_annotations(source, source.with_name(f'flipped_{seed}.json'), FLIPPED, seed)


def folder_of(work_dirs: Path, name: str, seed: int) -> Path:
    return work_dirs / f'{name.replace(" ", "_").replace(",", "")}-seed{seed}'


def validate(name: str, seed: int, data: Path, work_dir: Path) -> dict[str, float]:
    """Metrics of a run's last checkpoint, by the metrics as they are now; kept in the work_dir."""
    kept = work_dir / 'validation.json'
    if not kept.exists():
        cfg = load_config(str(data / f'{VARIANTS[name][0]}.py'), changes(name, data, seed, 1))
        cfg.load_from = (work_dir / 'last_checkpoint').read_text()
        cfg.work_dir, cfg.experiment_name, cfg.log_level = str(work_dir / 'validation'), work_dir.name, 'ERROR'
        metrics = Runner.from_cfg(cfg).val()
        kept.write_text(json.dumps({key: metrics[key] for key in METRICS.values()}))
    return json.loads(kept.read_text())


def iteration_ratios(data: Path, rounds: int) -> dict[str, list[float]]:
    """Time of a training step (losses, gradients, update) of each variant ÷ the base's, in turns on the same images."""
    steps = {}
    for name in EQUAL_BUDGET:
        cfg = load_config(str(data / f'{VARIANTS[name][0]}.py'), changes(name, data, 0, 1))
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        load_checkpoint(model, cfg.load_from, map_location='cpu', logger='silent')
        batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
        steps[name] = (model.train(), batch, build_optim_wrapper(model, cfg.optim_wrapper))
    ratios = {name: [] for name in steps if name != BASE}
    for number in range(1 + rounds):  # the first is a warm-up
        for name in ratios:
            taken = {one: step_time(*steps[one]) for one in sorted((BASE, name), reverse=bool(number % 2))}
            if number:
                ratios[name].append(round(taken[name] / taken[BASE], 3))
    return ratios


def step_time(model, batch: dict, optim_wrapper) -> float:
    start = time.perf_counter()
    model.train_step(copy.deepcopy(batch), optim_wrapper)
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation over seeds."""
    return f'{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}' if len(values) > 1 else f'{values[0]:.3f}'


def difference(results: dict[str, dict[int, dict]], name: str, against: str, key: str) -> str:
    """Mean of the differences of runs with the same seed, lowest and highest."""
    pairs = [results[name][seed][key] - results[against][seed][key] for seed in results[name]]
    return f'{statistics.mean(pairs):+.3f} ({min(pairs):+.3f} to {max(pairs):+.3f})'


def to_table(title: str, results: dict, rows: dict[str, str | None], ratios: dict[str, list[float]] | None = None) -> Table:
    """A row a variant: metrics with their spread over seeds, and the difference in mask AP and IoU to that in ``rows``."""
    table = Table(title=title, title_justify='left')
    for heading in ('variant', *METRICS, 'difference in mask AP', 'in matched IoU', *(['time of a step'] if ratios else [])):
        table.add_column(heading)
    for name, against in rows.items():
        cells = [spread([run[key] for run in results[name].values()]) for key in METRICS.values()]
        for metric in ('mask AP', 'matched IoU'):
            cells.append(difference(results, name, against, METRICS[metric]) if against else '')
        if ratios:
            values = ratios.get(name)
            cells.append(f'{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})' if values else '1')
        table.add_row(name, *cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time; set OMP_NUM_THREADS to share the cores')
    parser.add_argument('--rounds', type=int, default=10, help='of the times; 0 leaves them out')
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs/variants'))
    parser.add_argument('--out', type=Path, help='write every number as JSON')
    options = parser.parse_args()
    register_all_modules(init_default_scope=True)
    data = options.work_dirs.resolve() / 'data'
    data.mkdir(parents=True, exist_ok=True)
    write_inputs(data, options.seeds)
    runs = [(name, seed, folder_of(options.work_dirs, name, seed)) for seed in options.seeds for name in VARIANTS]
    left = [run for run in runs if read_run(run[2]).end is None]
    begin = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(train, name, seed, data, folder, options.epochs): folder for name, seed, folder in left}
        for number, job in enumerate(as_completed(jobs), 1):
            job.result()
            print(f'{number} of {len(left)}: {jobs[job].name} ({time.monotonic() - begin:.0f} s)', flush=True)
    results = {name: {} for name in VARIANTS}
    for name, seed, folder in runs:
        results[name][seed] = validate(name, seed, data, folder)
    ratios = iteration_ratios(data, options.rounds) if options.rounds else None
    budget = f'{options.epochs} epochs, {len(options.seeds)} seeds'
    out = console()
    rows = {name: None if name == BASE else BASE for name in EQUAL_BUDGET}
    out.print(to_table(f'Equal budget: {budget}; mean ± standard deviation', results, rows, ratios))
    out.print(to_table(f'{FLIPPED:.0%} of mask pixels wrong in training, none in validation: {budget}', results, NOISE))
    if options.out:
        record = {'epochs': options.epochs, 'torch': torch.__version__, 'runs': results, 'step_ratios': ratios}
        options.out.write_text(json.dumps(record, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
