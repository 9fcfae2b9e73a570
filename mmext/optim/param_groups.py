"""``custom_keys`` to few, named parameter groups with the very rates that MMEngine's constructor gives."""

import contextlib
import inspect
import logging
import math
import numbers
from collections.abc import Collection, Iterator

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn
from torch.nn import GroupNorm, LayerNorm, Parameter
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from mmext.errors import InputError, did_you_mean, raise_all
from mmext.registry import OPTIM_WRAPPER_CONSTRUCTORS

# MMDetection's module name to the part that it belongs to
PARTS = {
    'backbone': 'backbone',
    'neck': 'neck',
    'rpn_head': 'rpn_head',
    'bbox_head': 'bbox_head',
    'mask_head': 'mask_head',
    'point_head': 'mask_head',
    'mask_iou_head': 'mask_head',
    'semantic_head': 'mask_head',
}
# modules that only hold others: what no part claims in them goes by its own name
_CONTAINERS = ('module', 'roi_head')

_MULTIPLIERS = ('lr_mult', 'decay_mult')
_OPTIONS = (
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
    'keep_frozen',
)


def part_of(parameter: str) -> str:
    """Part that a parameter belongs to, by its dotted name: ``roi_head.point_head.fcs.0.weight`` to ``mask_head``."""
    path = parameter.split('.')
    for module in path:
        if module in PARTS:
            return PARTS[module]
    return next((module for module in path if module not in _CONTAINERS), path[0])


def matching_key(parameter: str, custom_keys: Collection[str]) -> str | None:
    """The custom key that decides about a parameter: the longest that its name contains, as in MMEngine."""
    return next((key for key in sorted(sorted(custom_keys), key=len, reverse=True) if key in parameter), None)


def find_mistakes(paramwise_cfg: dict, parameters: Collection[str], optimizer_cfg: dict) -> list[str]:
    """Everything that is wrong with a ``paramwise_cfg``, in words.

    Args:
        paramwise_cfg: as written in the config.
        parameters: names of all parameters of the model, frozen ones included.
        optimizer_cfg: the optimizer's config, for its base rate, its weight decay and its own options.
    """
    mistakes = []
    for option, value in paramwise_cfg.items():
        if option not in _OPTIONS:
            hint = did_you_mean(option, _OPTIONS)
            mistakes.append(f'paramwise_cfg: unknown option {option!r}. {hint}Allowed: {", ".join(_OPTIONS)}.')
        elif option.endswith('_mult'):
            mistakes += _multiplier_mistakes(f'paramwise_cfg: {option}', option, value, optimizer_cfg)
        elif option in ('bypass_duplicate', 'keep_frozen') and not isinstance(value, bool):
            mistakes.append(f'paramwise_cfg: {option} is {value!r}; it must be True or False.')
    custom_keys = paramwise_cfg.get('custom_keys') or {}
    if not isinstance(custom_keys, dict):
        return [*mistakes, f'custom_keys is {custom_keys!r}; it must be a dict such as dict(roi_head=dict(lr_mult=10)).']
    allowed = [*_MULTIPLIERS, *_optimizer_options(optimizer_cfg)]
    parts = list(dict.fromkeys(map(part_of, parameters)))
    modules = list(dict.fromkeys([*parts, *(module for name in parameters for module in name.split('.'))]))
    for key, options in custom_keys.items():
        if not any(key in name for name in parameters):
            hint = did_you_mean(key, modules).strip()
            mistakes.append(f'custom_keys: {key!r} matches no parameter. The model has: {", ".join(parts)}. {hint}'.strip())
        if not isinstance(options, dict):
            mistakes.append(f'custom_keys: {key!r} is {options!r}; it must be a dict such as dict(lr_mult=10).')
            continue
        for option, value in options.items():
            if option in _MULTIPLIERS:
                mistakes += _multiplier_mistakes(f'custom_keys: {option} of {key!r}', option, value, optimizer_cfg)
            elif option not in allowed:
                hint = did_you_mean(option, allowed)
                mistakes.append(f'custom_keys: unknown option {option!r} of {key!r}. {hint}Allowed: {", ".join(allowed)}.')
    return mistakes


def _multiplier_mistakes(what: str, option: str, value: object, optimizer_cfg: dict) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value < 0:
        return [f'{what} is {value!r}; it must be a number, 0 or more.']
    base = 'lr' if 'lr_mult' in option else 'weight_decay'
    if optimizer_cfg.get(base) is None:
        return [f'{what} multiplies {base}, which optim_wrapper.optimizer does not set. Set it there.']
    return []


def _optimizer_class(optimizer_cfg: dict) -> type:
    kind = optimizer_cfg['type']
    if isinstance(kind, str):
        with OPTIMIZERS.switch_scope_and_registry(None) as registry:
            return registry.get(kind)
    return kind


def _optimizer_options(optimizer_cfg: dict) -> list[str]:
    """What a parameter group may set for itself: the optimizer's arguments after the first, the parameters."""
    return list(inspect.signature(_optimizer_class(optimizer_cfg)).parameters)[1:]


def settings_label(name: str, parameter: Parameter, module: nn.Module, custom_keys: Collection[str]) -> str:
    """Suffix for a group whose settings differ from its part's: the custom key, else the kind of parameter."""
    key = matching_key(name, custom_keys)
    if key is not None:
        return key.rstrip('.').rpartition('.')[2]
    if isinstance(module, (_BatchNorm, _InstanceNorm, GroupNorm, LayerNorm)):
        return 'norm'
    if 'conv_offset' in name:
        return 'dcn_offset'
    if name.rpartition('.')[2] == 'bias':
        return 'bias'
    if isinstance(module, nn.Conv2d) and module.in_channels == module.groups:
        return 'dwconv'
    return 'flat' if parameter.ndim == 1 else 'weight'


@contextlib.contextmanager
def _as_if_trainable(parameters: Collection[Parameter]) -> Iterator[None]:
    """Let MMEngine's constructor see frozen parameters as trainable ones: it gives settings only to those."""
    frozen = [p for p in parameters if not p.requires_grad and (p.is_floating_point() or p.is_complex())]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextlib.contextmanager
def _without_log_lines() -> Iterator[None]:
    """MMEngine's constructor logs three lines a parameter; the table of mmext.GroupLRHook says the same in ten."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class NamedParamGroupConstructor(DefaultOptimWrapperConstructor):
    """Parameter groups named by part of the network: backbone, neck, rpn_head, bbox_head, mask_head.

    ``optim_wrapper = dict(constructor='mmext.NamedParamGroupConstructor', paramwise_cfg=dict(custom_keys=...))``. Every
    parameter gets the learning rate and weight decay that MMEngine's ``DefaultOptimWrapperConstructor`` gives for the same
    ``paramwise_cfg``; parameters of one part with the same settings share a group. The first group of a part has the part's
    name, the next ones a suffix: ``mask_head.norm``. The order of groups is that of their first parameters in the model.

    Of two custom keys that match a parameter the longer wins, and a match switches the norm and bias rules off for it, as
    in MMEngine. Each group carries ``name``, ``multiplier`` (its rate ÷ the base rate) and ``param_names``.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper, its optimizer in it.
        paramwise_cfg: MMEngine's options, and ``keep_frozen=True`` to give frozen parameters to the optimizer too, so that
            they can be thawed later.

    Raises:
        InputError: on the call with the model; names all mistakes at once: a key that matches no parameter, a
            multiplier that is not a number of 0 or more, an unknown option.
    """

    def _validate_cfg(self) -> None:
        if not isinstance(self.paramwise_cfg, dict):
            raise InputError(f'paramwise_cfg is {self.paramwise_cfg!r}; it must be a dict.')

    def __call__(self, model: nn.Module):
        model = getattr(model, 'module', model)
        names = [name for name, _ in model.named_parameters()]
        raise_all(find_mistakes(self.paramwise_cfg, names, self.optimizer_cfg))
        first_argument = next(iter(inspect.signature(_optimizer_class(self.optimizer_cfg)).parameters))
        optimizer: Optimizer = OPTIMIZERS.build({**self.optimizer_cfg, first_argument: self.named_groups(model)})
        if self.base_lr:
            for group in optimizer.param_groups:
                group['multiplier'] = group['lr'] / self.base_lr
        return OPTIM_WRAPPERS.build(
            {'type': 'OptimWrapper', **self.optim_wrapper_cfg}, default_args=dict(optimizer=optimizer)
        )

    def named_groups(self, model: nn.Module) -> list[dict]:
        """The groups for the optimizer, without those that hold frozen parameters only (unless ``keep_frozen``)."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        singles: list[dict] = []
        with _as_if_trainable(names), _without_log_lines():
            self.add_params(singles, model)
        custom_keys = self.paramwise_cfg.get('custom_keys') or {}
        modules = dict(model.named_modules())
        groups: dict[tuple, dict] = {}
        seen: set[Parameter] = set()
        for single in singles:
            (parameter,) = single.pop('params')
            name = names[parameter]
            if parameter in seen:
                raise InputError(
                    f'{name} is shared by two modules of the model, so the optimizer would step it twice. '
                    'Set optim_wrapper.paramwise_cfg.bypass_duplicate=True.'
                )
            seen.add(parameter)
            settings = {key: value for key, value in single.items() if key not in _MULTIPLIERS}
            settings.setdefault('lr', self.base_lr)
            settings.setdefault('weight_decay', self.base_wd)
            settings = {key: value for key, value in settings.items() if value is not None}
            key = (part_of(name), *sorted((option, repr(value)) for option, value in settings.items()))
            if key not in groups:
                label = settings_label(name, parameter, modules[name.rpartition('.')[0]], custom_keys)
                group_name = _free_name(part_of(name), label, [group['name'] for group in groups.values()])
                groups[key] = {'params': [], 'name': group_name, 'param_names': [], **settings}
            if parameter.requires_grad or self.paramwise_cfg.get('keep_frozen', False):
                groups[key]['params'].append(parameter)
                groups[key]['param_names'].append(name)
        return [group for group in groups.values() if group['params']]


def _free_name(part: str, label: str, taken: Collection[str]) -> str:
    """``part``, else ``part.label``, else ``part.label2`` and so on: the first that is not taken."""
    if part not in taken:
        return part
    names = (f'{part}.{label}{number}' for number in ('', *range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)
