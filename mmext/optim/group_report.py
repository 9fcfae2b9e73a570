"""What ``mmext groups`` answers: the table of parameter groups of a config, and its rates over the run."""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.optim import Optimizer

from mmext import recipe, recipes
from mmext.class_rows import FoundRows, find_rows
from mmext.console import console
from mmext.data.config_data import dataset_of
from mmext.errors import InputError, did_you_mean
from mmext.optim.group_table import GroupRow, fresh_lines, fresh_tensors, group_rows, to_record
from mmext.optim.group_table import to_table as group_table
from mmext.optim.schedule import Moment, dry_run, lost_ratios, moments
from mmext.optim.schedule import to_table as schedule_table
from mmext.safe_load import allow_mmengine_checkpoints


def load_config(config: str, cfg_options: Sequence[str] = ()) -> Config:
    """Read a config file, or the recipe of that name, and apply ``KEY=VALUE`` options as ``mim train`` does.

    Raises:
        InputError: no such file or recipe; a config that cannot be read; an option without ``=``.
    """
    if not Path(config).is_file():
        if config not in recipes():
            hint = did_you_mean(config, recipes())
            raise InputError(f'{config}: there is no such config file, and no recipe of that name. {hint}')
        config = recipe(config)
    options = {}
    for option in cfg_options:
        key, equals, value = option.partition('=')
        if not equals or not key:
            raise InputError(f'--cfg-options: {option!r} is not KEY=VALUE, such as train_cfg.max_epochs=20.')
        options[key] = DictAction._parse_iterable(value)
    try:
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(options)
    except Exception as error:  # a config is code: anything can go wrong in it, and it is the person's
        raise InputError(f'{config}: cannot be read as a config: {type(error).__name__}: {error}') from error
    return cfg


# what AmpOptimWrapper adds to OptimWrapper's settings
_OF_PRECISION = ('dtype', 'loss_scale', 'use_fsdp')


def build_optimizer(model: nn.Module, optim_wrapper: Mapping) -> Optimizer:
    """The optimizer of a config, with its groups and rates, on any machine.

    Args:
        model: the config's, built.
        optim_wrapper: of the config; one for mixed precision is built without, as MMEngine refuses it where there is no GPU,
            and groups and rates are the same.
    """
    if _kind(optim_wrapper) == 'AmpOptimWrapper':
        kept = {key: value for key, value in optim_wrapper.items() if key not in _OF_PRECISION}
        optim_wrapper = {**kept, 'type': 'OptimWrapper'}
    return build_optim_wrapper(model, optim_wrapper).optimizer


@dataclass(frozen=True)
class GroupReport:
    """The answer of ``mmext groups``. ``problem`` is True when a scheduler undoes the ratio between parts."""

    rows: list[GroupRow]
    lines: list[str]
    names: list[str]
    moments: list[Moment]
    epoch_length: int | None
    lost: list[str]

    @property
    def problem(self) -> bool:
        return bool(self.lost)

    def print(self) -> None:
        out = console()
        out.print(group_table(self.rows))
        if self.moments:
            out.print(schedule_table(self.moments, self.names, self.epoch_length))
        for line in [*self.lines, *self.lost]:
            out.print(line, soft_wrap=True, markup=False)

    def write(self, path: Path) -> None:
        record = to_record(self.rows)
        if self.moments:
            record['schedule'] = [
                {'moment': m.label, 'iteration': m.iteration, 'rates': dict(zip(self.names, m.rates, strict=True))}
                for m in self.moments
            ]
            record['lost_ratios'] = self.lost
        path.write_text(json.dumps(record, indent=2) + '\n')


def report(config: str, cfg_options: Sequence[str], schedule: bool, epoch_length: int | None) -> GroupReport:
    """Build the model and the optimizer of a config and say what learns at which rate.

    Args:
        config: a config file or a recipe's name.
        cfg_options: ``KEY=VALUE`` strings.
        schedule: dry-run the schedulers too.
        epoch_length: iterations an epoch; None takes it from the training data.
    """
    cfg = load_config(config, cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    for key in ('model', 'optim_wrapper'):
        if key not in cfg:
            raise InputError(f'{config}: it has no {key!r}, so there is nothing to show.')
    with contextlib.redirect_stdout(sys.stderr):  # MMEngine prints what it loads; standard output is for the answer
        try:
            model = MODELS.build(cfg.model)
            optimizer = build_optimizer(model, cfg.optim_wrapper)
        except InputError:
            raise
        except Exception as error:  # whatever a setting of the person's config makes the model's code raise
            raise InputError(f'{config}: the model cannot be built: {type(error).__name__}: {error}') from error
        fresh, found = _loaded(model, cfg)
        rows = group_rows(model, optimizer, fresh, found.rows)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    lines = [*found.lines, *fresh_lines(rows, frozen)]
    if not schedule:
        return GroupReport(rows, lines, [], [], None, [])
    names = [group['name'] for group in optimizer.param_groups]
    rates = [group['lr'] for group in optimizer.param_groups]
    length = epoch_length or _epoch_length(cfg)
    epochs, max_iters = _run_length(cfg)
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    table, remarks, lost = dry_run(schedulers, rates, epochs, length, max_iters)
    return GroupReport(rows, lines + remarks, names, moments(table), length, lost_ratios(table, names, rates) + lost)


def _loaded(model: nn.Module, cfg: Config) -> tuple[dict[str, str] | None, FoundRows]:
    """Tensors that ``load_from`` does not fill (None: nothing tells), and what it fills by class."""
    load_from = cfg.get('load_from')
    if not load_from:
        return None, FoundRows(lines=['No load_from in the config, so fresh and loaded tensors are not told apart.'])
    try:
        allow_mmengine_checkpoints()
        checkpoint = CheckpointLoader.load_checkpoint(load_from, map_location='cpu')
    except Exception as error:  # a URL without a network, a missing or foreign file: the groups stand all the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        line = f'load_from cannot be read, so fresh and loaded tensors are not told apart: {load_from}: {reason}'
        return None, FoundRows(lines=[line])
    found = _rows_by_class(model, checkpoint, cfg)
    found.put_into(checkpoint)
    return fresh_tensors(model, checkpoint, found.rows), found


def _rows_by_class(model: nn.Module, checkpoint: Mapping, cfg: Config) -> FoundRows:
    """What ``mmext.ClassRowsHook`` would load by class; nothing where the config has no such hook, or no class names."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    hook = next((hook for hook in hooks if hook and _kind(hook) == 'ClassRowsHook'), None)
    classes = _classes(cfg) if hook is not None else ()
    if not classes:
        return FoundRows()
    return find_rows(model, checkpoint, classes, hook.get('map'), hook.get('checkpoint_classes') or ())


def _classes(cfg: Config) -> tuple[str, ...]:
    """Class names of the training data: of the config, of a file that it names, or the data set's own."""
    dataset = dataset_of(cfg, 'train')
    kind = dataset.get('type')
    with DATASETS.switch_scope_and_registry(None) as registry:  # as build does: a name without scope is MMDetection's
        kind = registry.get(kind) if isinstance(kind, str) else kind
    classes = (dataset.get('metainfo') or {}).get('classes')
    if hasattr(kind, '_load_metainfo'):
        classes = kind._load_metainfo({'classes': classes} if classes else None).get('classes')
    return () if isinstance(classes, str) else tuple(classes or ())


def _kind(part: Mapping) -> str:
    """Name of a part's type, without its scope."""
    kind = part.get('type') or ''
    return (kind if isinstance(kind, str) else kind.__name__).split('.')[-1]


def _epoch_length(cfg: Config) -> int:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return len(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    except Exception as error:
        raise InputError(
            f'--schedule needs the length of an epoch, and the training data cannot be read: {error} '
            'Give it by hand: --epoch-length N.'
        ) from error


def _run_length(cfg: Config) -> tuple[int, int | None]:
    """Epochs, and iterations of an iteration-based run, which MMEngine counts as one epoch."""
    train_cfg = cfg.get('train_cfg') or {}
    if train_cfg.get('max_epochs'):
        return train_cfg['max_epochs'], None
    if train_cfg.get('max_iters'):
        return 1, train_cfg['max_iters']
    raise InputError('train_cfg: it sets neither max_epochs nor max_iters, so the run has no length.')
