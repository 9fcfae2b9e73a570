"""Whole trainings, stock MMDetection against mmext: ``python benchmarks/performance/whole_runs.py [--rounds 1]``.

`mim train` of the demo's network, training and validation, on made images of 1280 x 1024 with 20 objects each, and on a
folder of your own, three ways: stock parts, hooks and loop in the place of each of ours; the recipe as it is shipped, with
validation losses, mask quality, guards, kept predictions and diagnosis; the recipe's parts with stock's hooks and loop,
which do what stock does. Wall time of the run without the start of the process, most memory of the whole process, and the
seconds of each step. ``--r50 20`` trains the R50 recipe instead, as many iterations at 800 x 1088, batch 2: 11 minutes on
two cores, and a record of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made import write_large
from mmengine.config import Config
from side_by_side import STOCK_HOOKS, coco_parts, record_of, write

from mmext.data.own_data import write_config
from mmext.optim.group_report import load_config

HERE = Path(__file__).resolve().parent
STOCK, SHIPPED, PARTS = 'stock', 'mmext, all that it logs and measures', 'mmext'
# each of ours that stock has too
_STOCK_TYPES = {
    'mmext.LoadInstanceMasks': {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True},
    'mmext.CocoInstanceDataset': {'type': 'CocoDataset'},
    'mmext.CocoMetric': {'type': 'CocoMetric'},
    'mmext.FCNMaskHead': {'type': 'FCNMaskHead'},
    'mmext.MaxIoUAssigner': {'type': 'MaxIoUAssigner'},
}
_OURS_ALONE = ('mask_output', 'backend')


def with_stock_parts(value: object) -> object:
    """A config in which each part of ours that MMDetection has too is MMDetection's."""
    if isinstance(value, dict):
        kept = {key: with_stock_parts(item) for key, item in value.items() if key not in _OURS_ALONE}
        return {**kept, **_STOCK_TYPES.get(value.get('type'), {})}
    return type(value)(with_stock_parts(item) for item in value) if isinstance(value, (list, tuple)) else value


def three_ways(cfg: Config) -> dict[str, Config]:
    """The config of each side."""
    cfg.custom_imports = {'imports': ['mmext.registry', 'step_times'], 'allow_failed_imports': False}
    cfg.custom_hooks = [{'type': 'StepTimesHook'}]
    cfg.setdefault('visualizer', {})['vis_backends'] = [{'type': 'LocalVisBackend'}]
    lean = Config({**cfg.to_dict(), 'default_hooks': STOCK_HOOKS})
    if lean.get('val_cfg'):
        lean.val_cfg = {'type': 'ValLoop'}
    return {STOCK: Config(with_stock_parts(lean.to_dict())), SHIPPED: cfg, PARTS: lean}


def train(cfg: Config, folder: Path) -> tuple[int, dict]:
    """Most memory in bytes and the wall seconds of each step of one `mim train`."""
    folder.mkdir(parents=True)
    cfg.dump(folder / 'config.py')
    command = [Path(sys.executable).with_name('mim'), 'train', 'mmdet', folder / 'config.py', '--work-dir', folder]
    environment = {**os.environ, 'PYTHONPATH': str(HERE)}
    start = time.perf_counter()
    with (folder / 'console.txt').open('w') as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=environment)
        # its children count, too: mim starts a process of its own
        _, status, usage = os.wait4(process.pid, 0)
    process_seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f'The training failed:\n{(folder / "console.txt").read_text()[-3000:]}')
    steps = json.loads((folder / 'step_times.json').read_text())
    return usage.ru_maxrss * 1024, {'whole process': process_seconds, **steps}


def compare(row: str, data: str, ways: dict[str, Config], rounds: int, folder: Path) -> dict:
    """The record of a row; the ways are trained in turns, in the other order every round."""
    sides = {name: {'seconds': [], 'peak_bytes': 0, 'steps': []} for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            peak, steps = train(ways[name], folder / f'{name.split(",")[0]}_{len(name)}_{number}')
            sides[name]['seconds'].append(steps['whole run'])
            sides[name]['peak_bytes'] = max(sides[name]['peak_bytes'], peak)
            sides[name]['steps'].append(steps)
            shares = ', '.join(f'{step} {spent:.1f} s' for step, spent in steps.items())
            print(f'{data}, {name}: {peak / 2**20:.0f} MiB; {shares}', flush=True)
    return record_of(row, data, sides)


def demo_network(parts: dict[str, tuple[Path, Path]], folder: Path) -> Config:
    """The demo's differential-10x on a data set: two epochs, validation after each."""
    write_config(parts['train'], parts['val'], 'mask-rcnn_r18_fpn_finetune_differential-10x', folder / 'demo.py')
    return load_config(str(folder / 'demo.py'), ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1'])


def r50(parts: dict[str, tuple[Path, Path]], folder: Path, iterations: int) -> Config:
    """The R50 recipe differential-10x for some iterations at 800 x 1088, without pretrained weights, without validation."""
    write_config(parts['train'], parts['val'], 'mask-rcnn_r50_fpn_finetune_differential-10x', folder / 'r50.py')
    cfg = load_config(str(folder / 'r50.py'), [])
    cfg.load_from, cfg.model.backbone.init_cfg = None, None
    cfg.train_cfg = {'type': 'IterBasedTrainLoop', 'max_iters': iterations, 'val_interval': iterations + 1}
    cfg.param_scheduler = [{'type': 'ConstantLR', 'factor': 1.0, 'by_epoch': False}]
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.default_hooks = STOCK_HOOKS
    for step in cfg.train_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            step.update(scale=(1088, 800), keep_ratio=False)
    return cfg


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=1, help='trainings of each side (default 1)')
    parser.add_argument('--images', type=int, default=24, help='made training images; half as many to validate (default 24)')
    parser.add_argument('--r50', type=int, default=0, help='iterations of the R50 recipe, and nothing else')
    parser.add_argument('--data', type=Path, help='a COCO folder of your own: adds its rows')
    parser.add_argument(
        '--out', type=Path, help='default: whole_runs.json beside this script, with --r50 whole_runs_r50.json'
    )
    chosen = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = {'train': chosen.images, 'val': max(chosen.images // 2, 1)}
        made = {
            part: (write_large(folder / part, number, (0, place)), folder / part)
            for place, (part, number) in enumerate(images.items())
        }
        if chosen.r50:
            ways = three_ways(r50(made, folder, chosen.r50))
            ways.pop(SHIPPED)
            row = f'R50 recipe, {chosen.r50} iterations, batch 2, 800x1088'
            records.append(compare(row, 'made, 1280x1024', ways, chosen.rounds, folder / 'runs r50'))
        else:
            data = {'made, 1280x1024': made, **({chosen.data.name: coco_parts(chosen.data)} if chosen.data else {})}
            for label, parts in data.items():
                ways = three_ways(demo_network(parts, folder / label))
                records.append(compare("demo's network, 2 epochs", label, ways, chosen.rounds, folder / f'runs {label}'))
    write(records, chosen.out or HERE / ('whole_runs_r50.json' if chosen.r50 else 'whole_runs.json'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
