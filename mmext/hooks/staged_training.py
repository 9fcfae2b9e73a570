"""Train some parts first, others later: stages, each with parts, epochs and rates of its own."""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmext.errors import InputError, did_you_mean, raise_all, some
from mmext.model import bare_model
from mmext.optim.param_groups import part_of
from mmext.optim.schedule import scale_rates
from mmext.registry import HOOKS
from mmext.run_state import patience_used, renew_patience

# Matterport's words, and the lowest layer of a ResNet that each trains; what is no backbone is trained by all of them
WORDS = {'heads': 5, '5+': 4, '4+': 3, '3+': 2, 'all': 0}
_KEYS = ('epochs', 'train', 'lr_mult', 'lr')


@dataclass(frozen=True)
class Stage:
    """One stage: number from 1, epochs ``first`` to ``last`` (counted from 0; last is None for "to the end"), what it
    trains (a word, or names of parts), and a factor on all rates or an absolute base rate."""

    number: int
    first: int
    last: int | None
    train: str | tuple[str, ...]
    lr_mult: float = 1.0
    lr: float | None = None

    @property
    def name(self) -> str:
        return self.train if isinstance(self.train, str) else ', '.join(self.train)

    def factor(self, base_rate: float) -> float:
        """Factor on all rates, whose multipliers stay as they are."""
        return self.lr_mult if self.lr is None else self.lr / base_rate


def read_stages(stages: Sequence[Mapping]) -> list[Stage]:
    """Stages from their config.

    Args:
        stages: dicts of ``epochs`` (left out in the last one only: to the end of the run), ``train`` (``heads``, ``5+``,
            ``4+``, ``3+``, ``all``, or a list of parts), and ``lr_mult`` or ``lr``.

    Raises:
        InputError: names every mistake at once.
    """
    if not isinstance(stages, (list, tuple)) or not stages:
        raise InputError(
            f"StagedTrainingHook: stages is {stages!r}; it must be a list such as [dict(epochs=10, train='heads')]."
        )
    found, mistakes, first = [], [], 0
    for number, stage in enumerate(stages, 1):
        where = f'stage {number}'
        if not isinstance(stage, Mapping):
            mistakes.append(f"{where} is {stage!r}; it must be a dict such as dict(epochs=10, train='heads').")
            continue
        mistakes += [
            f'{where}: unknown {key!r}. {did_you_mean(key, _KEYS)}Allowed: {", ".join(_KEYS)}.'
            for key in stage.keys() - set(_KEYS)
        ]
        train, epochs = stage.get('train'), stage.get('epochs')
        parts = isinstance(train, (list, tuple)) and train and all(isinstance(part, str) for part in train)
        if not parts and (not isinstance(train, str) or train not in WORDS):
            mistakes.append(f'{where}: train is {train!r}; allowed are {", ".join(WORDS)}, or a list of parts.')
        if epochs is None and number < len(stages):
            mistakes.append(
                f'{where} has no epochs, so it overlaps with stage {number + 1}. Only the last one may go on to the end.'
            )
        elif epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs <= 0):
            mistakes.append(f'{where}: epochs is {epochs!r}; it must be a whole number above 0.')
        for key in ('lr_mult', 'lr'):
            value = stage.get(key, 1)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not value > 0:
                mistakes.append(f'{where}: {key} is {value!r}; it must be a number above 0.')
        if 'lr' in stage and 'lr_mult' in stage:
            mistakes.append(f'{where} has lr and lr_mult; one of them decides.')
        if not mistakes:
            last = None if epochs is None else first + epochs - 1
            what = train if isinstance(train, str) else tuple(train)
            found.append(Stage(number, first, last, what, stage.get('lr_mult', 1.0), stage.get('lr')))
            first = first if epochs is None else first + epochs
    raise_all([f'StagedTrainingHook: {mistake}' for mistake in mistakes])
    return found


def stage_of(stages: Sequence[Stage], epoch: int) -> Stage:
    """The stage of an epoch, counted from 0."""
    return next(stage for stage in stages if stage.last is None or epoch <= stage.last)


def length_mistakes(stages: Sequence[Stage], epochs: int) -> list[str]:
    """What is wrong with the stages' epochs for a run of so many."""
    last = stages[-1]
    total = last.first if last.last is None else last.last + 1
    if last.last is None and total >= epochs:
        return [
            f'stage {last.number} would begin after {total} epochs, the run has {epochs}. Set train_cfg.max_epochs higher.'
        ]
    if last.last is not None and total > epochs:
        return [
            f'the stages take {total} epochs, the run has {epochs}. Set train_cfg.max_epochs={total}, or shorten a stage.'
        ]
    if last.last is not None and total < epochs:
        return [f'the stages end after {total} epochs, the run has {epochs}: a gap. Leave epochs out of the last stage.']
    return []


def patience_remarks(stages: Sequence[Stage], patience: Sequence[Mapping], val_interval: int) -> list[str]:
    """Stages within which early stopping may end the run, so that the later ones would never begin.

    Args:
        stages: of the run.
        patience: ``monitor`` and ``patience`` of each early stopping.
        val_interval: epochs from one validation to the next.
    """
    return [
        f'StagedTrainingHook: {state["monitor"]} may end the run within stage {stage.number} ({stage.name}), and the next '
        f'would not begin: it stops after {state["patience"]} validations without improvement, and the stage has '
        f'{number}. Raise the patience: default_hooks.early_stopping.patience={number + 1}'
        for state in patience
        for stage in stages[:-1]
        if (number := (stage.last + 1) // val_interval - stage.first // val_interval) >= state['patience']
        # of the run's first validation there is nothing better
        and (stage.number > 1 or number > state['patience'])
    ]


def is_trained(parameter: str, train: str | Sequence[str]) -> bool:
    """Whether a stage trains a parameter, by its dotted name."""
    part = part_of(parameter)
    if not isinstance(train, str):
        return part in train
    if part != 'backbone':
        return True
    layers = [int(module.removeprefix('layer')) for module in parameter.split('.') if module.removeprefix('layer').isdigit()]
    layer = layers[0] if layers and f'.layer{layers[0]}.' in f'.{parameter}' else 0  # the stem is below layer 1
    return layer >= WORDS[train]


@HOOKS.register_module()
class StagedTrainingHook(Hook):
    """Train the heads first and more of the network later, as Matterport's Mask R-CNN does.

    ``staged_training=dict(type='mmext.StagedTrainingHook', stages=[dict(epochs=10, train='heads'), dict(train='all',
    lr_mult=0.1)])`` in default_hooks, with ``model.backbone.frozen_stages=-1``.

    What a stage does not train stays as it is to the bit: weights, and running statistics of its norm layers. ``lr_mult``
    and ``lr`` (the base rate then) change all rates of the stage, so the ratios between parts stay and the schedule goes on
    from there; early stopping and plateau begin to count anew. The stage is a function of the epoch: a resumed run is in
    the right one. It is logged as ``stage``.

    Args:
        stages: see :func:`read_stages`.

    Raises:
        InputError: stages that are wrong, do not fill the run, name parts that the model has not, or would train what was
            frozen when the optimizer was built; several processes without ``find_unused_parameters``.
    """

    priority = 'HIGHEST'  # RuntimeInfoHook (VERY_HIGH) logs the rate before the iteration

    def __init__(self, stages: Sequence[Mapping]):
        self.stages = read_stages(stages)
        self._now: Stage | None = None

    def before_train(self, runner) -> None:
        self._now = None
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise InputError(
                'StagedTrainingHook: stages are counted in epochs; use an epoch-based loop (train_cfg.by_epoch).'
            )
        self._model: nn.Module = bare_model(runner)
        mistakes = length_mistakes(self.stages, runner.max_epochs)
        names = [name for name, _ in self._model.named_parameters()]
        parts = list(dict.fromkeys(map(part_of, names)))
        known = {id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}
        for stage in self.stages:
            unknown = [part for part in stage.train if part not in parts] if not isinstance(stage.train, str) else []
            mistakes += [
                f'stage {stage.number}: the model has no part {part!r}. {did_you_mean(part, parts)}It has: '
                f'{", ".join(parts)}.'
                for part in unknown
            ]
            lowest = WORDS.get(stage.train, 0) if isinstance(stage.train, str) else 0
            if 0 < lowest < 5 and not any(f'.layer{lowest}.' in f'.{name}' for name in names):
                mistakes.append(
                    f'stage {stage.number}: {stage.train!r} is for a ResNet, and the model has no layer{lowest}.'
                )
            lost = [
                name
                for name, parameter in self._model.named_parameters()
                if is_trained(name, stage.train) and (id(parameter) not in known or not parameter.requires_grad)
            ]
            if lost:
                mistakes.append(
                    f'stage {stage.number} ({stage.name}) trains {some(lost, 3)}, frozen when the optimizer was built: it '
                    'would not move. Set model.backbone.frozen_stages=-1; the stages freeze.'
                )
                break
        if not getattr(runner.model, 'find_unused_parameters', True):
            mistakes.append(
                'on several processes frozen parts have no gradient to exchange. Set find_unused_parameters=True, or '
                'model_wrapper_cfg.find_unused_parameters=True where the config has one.'
            )
        raise_all([f'StagedTrainingHook: {mistake}' for mistake in mistakes])
        for line in patience_remarks(self.stages, patience_used(runner.hooks), runner.train_loop.val_interval):
            runner.logger.warning(line)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        # not before_train_epoch: model.train() comes after it, and puts every norm layer into training mode
        if batch_idx == 0:
            self._apply(runner, stage_of(self.stages, runner.epoch))
        runner.message_hub.update_scalar('train/stage', self._now.number)

    def _apply(self, runner, stage: Stage) -> None:
        trained = {name for name, _ in self._model.named_parameters() if is_trained(name, stage.train)}
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in trained)
        for name, module in self._model.named_modules():
            if isinstance(module, _NormBase) and not is_trained(f'{name}.weight', stage.train):
                module.eval()
        if stage == self._now:
            return
        self._now = stage
        if stage.number > 1 and runner.epoch == stage.first:
            renew_patience(runner.hooks, runner.param_schedulers or [])
        wrapper = runner.optim_wrapper
        base = wrapper.base_param_settings or wrapper.optimizer.param_groups[0]
        # what the rates hold already: kept with them in a checkpoint
        applied = runner.message_hub.runtime_info.get('stage_factor', 1.0)
        # without a schedule there is no note of the first rate
        factor = stage.factor(base.get('initial_lr', base['lr'] / applied))
        if factor != applied:
            scale_rates(wrapper, runner.param_schedulers or [], factor / applied)
        runner.message_hub.update_info('stage_factor', factor)
        counts = [0, 0]
        for name, parameter in self._model.named_parameters():
            counts[name not in trained] += parameter.numel()
        end = runner.max_epochs if stage.last is None else stage.last + 1
        rates = f'rates × {factor:g}' if factor != 1 else 'rates as planned'
        rates += f' (base rate now {base["lr"]:.3g})'  # warm-up and reductions so far are in it
        runner.logger.info(
            f'Stage {stage.number} of {len(self.stages)}, {stage.name}: epochs {stage.first + 1} to {end}, {counts[0]:,} '
            f'parameters trained, {counts[1]:,} frozen, {rates}.'
        )
