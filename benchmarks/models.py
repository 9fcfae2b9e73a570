"""Operations and times of every recipe's model: ``python benchmarks/models.py [--rounds 3] [--only NAME ...]``.

Operations of a prediction at 800x1333, and the time of a training step (losses and gradients) and of a prediction relative
to the base recipe's, in turns with it in one process. Recipes with one and the same model are measured once. Every model's
answer is written to models.json as soon as it is there, and is not measured again; ``--only`` measures it anew.
``python tools/model_table.py`` makes docs/models.md of it.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

import mmext

BASE = 'mask-rcnn_r50_fpn_finetune'
MEASURED = Path(__file__).with_suffix('.json')
FULL_SIZE = (800, 1333)
# a third of the full size a side: a step takes seconds on a processor
TIMED_SIZE = (256, 427)
OBJECTS = 8
WARM_UP = 1


def build(cfg: Config) -> torch.nn.Module:
    """The recipe's model with random weights, the same at every call."""
    model = copy.deepcopy(cfg.model)
    model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    return model


def inputs_of(cfg: Config, size: tuple[int, int]) -> dict:
    return demo_mm_inputs(
        1, [[3, *size]], num_items=[OBJECTS], num_classes=cfg.num_classes, with_mask=True, device='cpu', use_box_type=False
    )


def operations(model: torch.nn.Module, inputs: dict) -> tuple[float, int]:
    """Multiply-adds of a prediction, and how many instances it gave: the mask head works on each."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (sample,) = model.test_step(copy.deepcopy(inputs))
    return counter.get_total_flops() / 2, len(sample.pred_instances)


def training_time(model: torch.nn.Module, inputs: dict) -> float:
    model.train()
    torch.manual_seed(0)  # proposals are sampled: the same ones for every round
    start = time.perf_counter()
    total, _ = model.parse_losses(model(**model.data_preprocessor(copy.deepcopy(inputs), True), mode='loss'))
    total.backward()
    taken = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return taken


@torch.no_grad()
def prediction_time(model: torch.nn.Module, inputs: dict) -> float:
    model.eval()
    start = time.perf_counter()
    model.test_step(copy.deepcopy(inputs))
    return time.perf_counter() - start


def measure(cfg: Config, base: torch.nn.Module, rounds: int) -> dict:
    """Operations once, times in turns with the base's."""
    model = build(cfg)
    multiply_adds, instances = operations(model, inputs_of(cfg, FULL_SIZE))
    inputs = inputs_of(cfg, TIMED_SIZE)
    ratios = {'training': [], 'prediction': []}
    for number in range(WARM_UP + rounds):
        for what, timed in (('training', training_time), ('prediction', prediction_time)):
            taken = {}
            for side in sorted(('base', 'model'), reverse=bool(number % 2)):
                taken[side] = timed(base if side == 'base' else model, inputs)
            if number >= WARM_UP:
                ratios[what].append(round(taken['model'] / taken['base'], 3))
    return {'multiply_adds': multiply_adds, 'instances': instances, **ratios, 'threads': torch.get_num_threads()}


def same_model(recipes: dict[str, Path]) -> dict[str, str]:
    """Recipe to the first recipe that has the very same model; the base stands for all of its schedules."""
    firsts: dict[str, str] = {}
    order = sorted(recipes, key=lambda name: (name != BASE, name))
    return {name: firsts.setdefault(str(Config.fromfile(recipes[name]).model.to_dict()), name) for name in order}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--only', nargs='+', metavar='NAME', help='measure these recipes, even if they have been')
    options = parser.parse_args()
    register_all_modules(init_default_scope=True)
    MMLogger.get_instance('models', log_level='ERROR')  # init_weights tells a line a tensor
    recipes = {name: path for name, path in mmext.recipes().items() if path.parent.name != 'demo'}
    unknown = set(options.only or ()) - set(recipes)
    if unknown:
        parser.error(f'no such recipe: {", ".join(sorted(unknown))}. `mmext init --recipe list` prints the names.')
    firsts = same_model(recipes)
    measured = json.loads(MEASURED.read_text())['models'] if MEASURED.exists() else {}
    measured = {name: row for name, row in measured.items() if name in firsts.values()}
    wanted = sorted({firsts[name] for name in options.only} if options.only else set(firsts.values()) - set(measured))
    base = build(Config.fromfile(recipes[BASE]))
    for number, name in enumerate(wanted, 1):
        measured[name] = measure(Config.fromfile(recipes[name]), base, options.rounds)
        record = {'models': dict(sorted(measured.items())), 'same_model_as': dict(sorted(firsts.items()))}
        MEASURED.write_text(json.dumps(record, indent=1) + '\n')
        row = measured[name]
        times = ', '.join(f'{what} {statistics.median(row[what]):.2f}' for what in ('training', 'prediction'))
        print(
            f'{number} of {len(wanted)}: {name}: {row["multiply_adds"] / 1e9:.0f} G, {row["instances"]} instances, {times}'
        )
    print(f'{MEASURED.name} has {len(measured)} models of {len(firsts)} recipes.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
