"""What mmext itself costs: ``python benchmarks/performance/own_cost.py [--rounds 4] [--out FILE]``.

Hooks: the demo's network on made data, an epoch with MMEngine's own hooks and one with all hooks of the recipe, in turns.
Time inside mmext's hooks is that of every method of theirs that is called from outside, what they register with model and
optimizer included. Optimizer: steps with the 168 groups of MMEngine's constructor and with mmext's named groups. Command
line: ``mmext --help``; that neither it nor any module of ``mmext.analysis`` loads torch is checked.
"""

import contextlib
import copy
import functools
import inspect
import io
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from side_by_side import STOCK_HOOKS, must_equal, options, record_of, side_by_side, write

import mmext
from mmext.data.demo import write_part

IMAGES = 48
# iterations left out at the beginning of an epoch
WARM_UP = 2
# at most this share of an iteration, and this many seconds
SHARE, HELP = 0.01, 0.3
CONSTRUCTORS = {'MMEngine': 'DefaultOptimWrapperConstructor', 'mmext': 'mmext.NamedParamGroupConstructor'}
STEPS = 5
HELP_CALLS = 10
WITHOUT_TORCH = """
import importlib, pkgutil, sys
import mmext.analysis, mmext.cli
names = [module.name for module in pkgutil.iter_modules(mmext.analysis.__path__)]
for name in names:
    importlib.import_module(f'mmext.analysis.{name}')
print(len(names), 'torch' in sys.modules)
"""


class Watch:
    """Seconds inside methods; a method that another of them calls counts once."""

    def __init__(self):
        self.seconds = 0.0
        self._inside = False

    def over(self, method: Callable) -> Callable:
        @functools.wraps(method)
        def call(*args, **kwargs):
            if self._inside:
                return method(*args, **kwargs)
            self._inside = True
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self._inside = False

        return call

    def over_all_of(self, hook: Hook) -> None:
        for name, method in inspect.getmembers(hook, inspect.ismethod):
            if not name.startswith('__'):
                setattr(hook, name, self.over(method))


def train(folder: Path, name: str, stock: bool) -> dict[str, float]:
    """An epoch: mean seconds of an iteration, inside mmext's hooks and inside the logger; seconds of the epoch's end."""
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune_differential-10x'))
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(folder),
            'train_cfg.max_epochs': 1,
            'work_dir': str(folder / name),
            'experiment_name': name,
            'log_level': 'ERROR',
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None,
        }
    )
    if stock:
        cfg.default_hooks = STOCK_HOOKS
    runner = Runner.from_cfg(cfg)
    ours, logger = Watch(), Watch()
    for hook in runner.hooks:
        if type(hook).__module__.startswith('mmext.'):
            ours.over_all_of(hook)
        elif isinstance(hook, LoggerHook):
            logger.over_all_of(hook)
    rows = []
    loop = runner.train_loop
    step = loop.run_iter

    def run_iter(*args) -> None:
        ours.seconds = logger.seconds = 0.0
        start = time.perf_counter()
        step(*args)
        rows.append((time.perf_counter() - start, ours.seconds, logger.seconds))

    loop.run_iter = run_iter
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        runner.train()
    whole = time.perf_counter() - start
    iteration, hooks, log = (sum(column) / (len(rows) - WARM_UP) for column in zip(*rows[WARM_UP:], strict=True))
    return {'iteration': iteration, 'hooks': hooks, 'log': log, 'besides': whole - sum(row[0] for row in rows)}


def record(row: str, data: str, seconds: dict[str, Sequence[float]], equal: str, bound: float | None = None) -> dict:
    """A record of times that were measured inside something else."""
    sides = {name: {'seconds': list(times), 'peak_bytes': None} for name, times in seconds.items()}
    return record_of(row, data, sides, equal, bound)


def hook_rows(rounds: int) -> list[dict]:
    found: dict[str, list[dict]] = {'MMEngine': [], 'mmext': []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        list(write_part(folder / 'train', IMAGES, (0, 0)))
        train(folder, 'first', stock=True)
        for number in range(rounds):
            for side in list(found)[:: -1 if number % 2 else 1]:
                found[side].append(train(folder, f'{side}_{number}', stock=side == 'MMEngine'))

    def of(key: str) -> dict[str, list[float]]:
        return {side: [run[key] for run in runs] for side, runs in found.items()}

    data, nothing = "demo's network, batch 4", 'nothing: hooks with other tasks'
    inside = {'an iteration': of('iteration')['mmext'], "mmext's hooks in it": of('hooks')['mmext']}
    return [
        record('time inside hooks', data, inside, nothing, 1 / SHARE),
        record('an iteration with all hooks', data, of('iteration'), nothing),
        record("the logger's hook, an iteration", data, of('log'), 'nothing: mmext logs more numbers'),
        record('an epoch without its iterations: start, checkpoint', data, of('besides'), nothing),
    ]


def step_row(recipe: str, optimizer: dict, rounds: int) -> dict:
    """Steps with the recipe's rates by both constructors, on copies of one model with one gradient."""
    cfg = Config.fromfile(mmext.recipe(recipe))
    cfg.merge_from_dict({'model.backbone.init_cfg': None})
    torch.manual_seed(0)
    models = [MODELS.build(cfg.model)]
    models.append(copy.deepcopy(models[0]))
    for pair in zip(*(model.parameters() for model in models), strict=True):
        if pair[0].requires_grad:
            gradient = torch.randn_like(pair[0]) * 1e-3
            for parameter in pair:
                parameter.grad = gradient
    calls = {}
    for model, (side, constructor) in zip(models, CONSTRUCTORS.items(), strict=True):
        settings = ConfigDict(cfg.optim_wrapper, optimizer=optimizer, constructor=constructor)
        built = build_optim_wrapper(model, settings).optimizer
        gradients = [(parameter, parameter.grad) for group in built.param_groups for parameter in group['params']]

        def steps(built=built, gradients=gradients) -> None:
            for _ in range(STEPS):
                built.step()
                built.zero_grad()
                for parameter, gradient in gradients:
                    parameter.grad = gradient

        calls[f'{side}, {len(built.param_groups)} groups'] = steps
    for call in calls.values():
        call()
    same = all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))
    must_equal(same, f'the weights of {recipe} after {STEPS} steps of {optimizer["type"]}')
    words = f'all weights after {STEPS} steps, to the bit'
    row = f'{STEPS} times optimizer.step and zero_grad, {optimizer["type"]}'
    return side_by_side(row, recipe, calls, rounds, words)


def help_row() -> dict:
    done = subprocess.run([sys.executable, '-c', WITHOUT_TORCH], capture_output=True, text=True, check=True)
    modules, loaded = done.stdout.split()
    must_equal(int(modules) > 0 and loaded == 'False', 'mmext.cli or a module of mmext.analysis loads torch')
    command = [str(Path(sys.executable).with_name('mmext')), '--help']
    seconds = []
    for _ in range(HELP_CALLS + 1):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    words = f'neither mmext.cli nor any of the {modules} modules of mmext.analysis loads torch'
    return record('mmext --help', 'no data', {'the limit': [HELP] * HELP_CALLS, 'mmext': seconds[1:]}, words, 1)


def main() -> int:
    warnings.simplefilter('ignore')
    settings = options(__doc__, 'own_cost', 4)
    register_all_modules(init_default_scope=True)
    MMLogger.get_instance('own_cost', log_level='ERROR')
    records = [help_row()]
    sgd = {'type': 'SGD', 'lr': 1e-3, 'momentum': 0.9, 'weight_decay': 1e-4}
    adamw = {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 0.05}
    for recipe in ('mask-rcnn_r50_fpn_finetune', 'mask-rcnn_r18_fpn_finetune'):
        records += [step_row(recipe, optimizer, settings.rounds) for optimizer in (sgd, adamw)]
    records += hook_rows(settings.rounds)
    write(records, settings.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
