"""Experiment: which loss sends how much gradient into which part, and how far one step of the optimizer moves each part."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.runner import set_random_seed
from torch import Tensor, nn
from torch.optim import Optimizer

from mmext.analysis.diagnose import Cause, Experiment
from mmext.analysis.facts import HEADS, Facts
from mmext.analysis.remedies import CUSTOM_KEYS, plain, words
from mmext.analysis.runs import Run
from mmext.analysis.shares import family_of
from mmext.loops.loss_val_loop import kept_random_state
from mmext.model import parsed_losses
from mmext.optim.param_groups import part_of
from mmext.probe.training import optimizer_at_peak, train_loader
from mmext.probe.weigh import LIMITS, limit

BATCHES = 4
# batches of images that have no object say nothing of masks; after so many no others are waited for
_MOST_BATCHES = 20
SHARED = ('backbone', 'neck')
# optimizers whose first step has the length of the rate in every weight, whatever the gradient
_NORMALISED = ('Adam', 'AdamW', 'Adamax', 'NAdam', 'RAdam')


@dataclass(frozen=True)
class Gradients:
    """What training batches gave, each number a mean over them.

    ``norms``: part, then loss family, to the norm of the gradient that the family sends into the part; ``updates``: part to
    the length of one step of the optimizer ÷ that of the part's weights, empty where its step cannot be reckoned;
    ``trainable``: part to its number of tensors that are not frozen; ``losses``: family to its value; ``clipped``: factor
    that ``clip_grad`` leaves of the gradient.
    """

    norms: Mapping[str, Mapping[str, float]]
    updates: Mapping[str, float]
    trainable: Mapping[str, int]
    losses: Mapping[str, float]
    batches: int
    objects: int
    optimizer: str = 'SGD'
    clipped: float = 1.0

    def norm(self, part: str) -> float:
        """Sum over the families."""
        return sum(self.norms.get(part, {}).values())

    def share(self, part: str, family: str) -> float:
        """Of a family in the gradient of a part, 0 to 1; NaN where the part has none."""
        whole = self.norm(part)
        return self.norms[part].get(family, 0.0) / whole if whole else math.nan


def merged_family(loss: str) -> str | None:
    """Family of a loss, the two of the RPN as one: they have the same way into the network."""
    family = family_of(loss)
    return 'rpn' if family in ('rpn_cls', 'rpn_bbox') else family


def family_losses(losses: Mapping[str, Tensor | list[Tensor]]) -> dict[str, Tensor]:
    """A model's losses as training adds them up, by family, with their graphs."""
    sums: dict[str, Tensor] = {}
    for name, value in parsed_losses(losses).items():
        family = merged_family(name)
        if family is not None:
            sums[family] = sums.get(family, 0) + value
    return sums


def gradients_of(model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Family to the gradient that it sends into each parameter, by name; what it does not reach is left out.

    Args:
        model: its ``grad`` are written over.
        losses: of :func:`family_losses`.
    """
    found = {}
    for family, loss in losses.items():
        model.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward(retain_graph=True)  # torch.autograd.grad does not go through with_cp=True
        found[family] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def norms_by_part(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Norm of a gradient in each part."""
    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        squares[part_of(name)] = squares.get(part_of(name), 0.0) + float(gradient.double().square().sum())
    return {part: math.sqrt(value) for part, value in squares.items()}


def step_ratios(
    model: nn.Module, optimizer: Optimizer, gradient: Mapping[str, Tensor], clip: Mapping | None
) -> tuple[dict[str, float], float]:
    """Length of one step without momentum ÷ length of the weights, by part, and the factor of clipping.

    SGD steps by rate × gradient; Adam and its kin, at their first step, by the rate in every weight that has a gradient.

    Args:
        model: with its weights.
        optimizer: with the rates; of another kind than these there is no answer.
        gradient: of the total loss, by name of parameter.
        clip: ``clip_grad`` of the optimizer wrapper.
    """
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    kind = type(optimizer).__name__
    if kind not in ('SGD', *_NORMALISED):
        return {}, 1.0
    most = (clip or {}).get('max_norm') or math.inf
    whole = math.sqrt(sum(float(one.double().square().sum()) for one in gradient.values()))
    clipped = min(1.0, most / whole) if whole else 1.0
    steps, weights = {}, {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, rate = part_of(name), rates.get(id(parameter), 0.0)
        one = gradient.get(name)
        step = 0.0
        if one is not None:
            step = float(one.count_nonzero() if kind in _NORMALISED else (clipped * one.double()).square().sum()) * rate**2
        steps[part] = steps.get(part, 0.0) + step
        weights[part] = weights.get(part, 0.0) + float(parameter.detach().double().square().sum())
    return {part: math.sqrt(steps[part] / weights[part]) for part in steps if weights[part]}, clipped


def measure(
    run: Run, cfg: Config, model: nn.Module, seed: int, progress: Callable[[int, int], None] | None = None
) -> Gradients:
    """Gradients on training batches of a run, as its training would take them. Model and random numbers stay as they are.

    Args:
        run: as read from its work_dir.
        cfg: its config.
        model: with the weights of its checkpoint.
        seed: of the batches and of what is drawn in them.
        progress: called with (done, all) batches.

    Raises:
        InputError: the training data or the optimizer cannot be built.
    """
    model = copy.deepcopy(model).train()  # running statistics and grad of the copy are nobody's
    optimizer = optimizer_at_peak(run, cfg, model)
    clip = cfg.optim_wrapper.get('clip_grad')
    norms, updates, clipped, losses, objects = [], [], [], [], 0
    with kept_random_state():
        set_random_seed(seed)
        for _, batch in zip(range(_MOST_BATCHES), train_loader(cfg, seed), strict=False):
            data = model.data_preprocessor(batch, True)
            found = sum(len(one.gt_instances) for one in data['data_samples'])
            if not found:
                continue
            by_family = family_losses(model(**data, mode='loss'))
            gradients = gradients_of(model, by_family)
            ratios, factor = step_ratios(model, optimizer, _total(gradients.values()), clip)
            norms.append(_flat({family: norms_by_part(gradient) for family, gradient in gradients.items()}))
            updates.append(ratios)
            clipped.append(factor)
            losses.append({family: float(loss.detach()) for family, loss in by_family.items()})
            objects += found
            if progress:
                progress(len(losses), BATCHES)
            if len(losses) == BATCHES:
                break
    trainable = dict.fromkeys((part_of(name) for name, _ in model.named_parameters()), 0)
    for name, parameter in model.named_parameters():
        trainable[part_of(name)] += parameter.requires_grad
    by_part: dict[str, dict[str, float]] = {part: {} for part in trainable}
    for (part, family), norm in _means(norms).items():
        by_part[part][family] = norm
    return Gradients(
        by_part,
        _means(updates),
        trainable,
        _means(losses),
        len(losses),
        objects,
        type(optimizer).__name__,
        sum(clipped) / len(clipped) if clipped else 1.0,
    )


def _total(gradients: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for gradient in gradients:
        for name, one in gradient.items():
            total[name] = total[name] + one if name in total else one
    return total


def _flat(norms: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    return {(part, family): norm for family, found in norms.items() for part, norm in found.items()}


def _means(batches: Sequence[Mapping]) -> dict:
    """Mean of each entry; a batch that has not got it counts as 0."""
    names = dict.fromkeys(name for one in batches for name in one)
    return {name: sum(one.get(name, 0.0) for one in batches) / len(batches) for name in names}


def judge(found: Gradients, facts: Facts) -> Experiment:
    """What is said of gradients: a head without any, masks that hardly shape what is shared, a head that hardly moves."""
    if not found.batches:
        text = f'Of {_MOST_BATCHES} training batches none has an object: no gradient was taken.'
        return Experiment('gradients', text=text)
    if not all(math.isfinite(loss) for loss in found.losses.values()):
        return Experiment('gradients', text='At the weights of the checkpoint the losses are no numbers, nor are gradients.')
    still = [part for part in HEADS if part in found.norms and not found.norm(part)]
    findings = [_without_gradient(found, still)] if still else []
    if not still:
        findings += [one for one in (_small_mask_gradient(found, facts), _small_update(found, facts)) if one]
    return Experiment('gradients', text=_text(found), findings=tuple(findings), table=table_of(found))


def table_of(found: Gradients) -> dict[str, dict[str, float | None]]:
    """Part to share of each family, norm of the gradient, and step ÷ weights; None where there is none."""
    return {
        part: {family: _number(found.share(part, family)) for family in found.losses}
        | {'gradient': found.norm(part), 'step/weights': found.updates.get(part)}
        for part in found.norms
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(found: Gradients) -> str:
    """What the table shows."""
    steps = {
        'SGD': 'one step of SGD without its momentum',
        **dict.fromkeys(_NORMALISED, f'a first step of {found.optimizer}, which has the length of the rate in every weight'),
    }.get(found.optimizer)
    clipped = '' if found.clipped == 1 else f', clipped to {found.clipped:.2g} of its length'
    step = (
        f'Step ÷ weights: {steps} at the highest rate of the run{clipped}.'
        if steps
        else f'How far {found.optimizer} steps is not reckoned.'
    )
    return (
        f'Share of each loss in the gradient of each part, from {found.batches} training batches with {found.objects} '
        f'objects at the weights of the checkpoint. {step}'
    )


def _without_gradient(found: Gradients, still: Sequence[str]) -> Cause:
    what = []
    for part in still:
        if not found.trainable[part]:
            what.append(f'{part} is frozen')
        else:
            what.append(f'{part} gets a gradient of exactly 0, with {found.trainable[part]} tensors to train')
    zero = [family for family, loss in found.losses.items() if loss == 0]
    losses = f' These losses are 0: {", ".join(zero)}.' if zero else ''
    return Cause(
        'part-without-gradient',
        'severe',
        f'{", ".join(what)}, on {found.batches} training batches with {found.objects} objects.{losses}',
        remedy='Let it train: look for a loss weight of 0, requires_grad=False, a detach() in code of your own, proposals '
        'that match no object.',
        cause='a head gets no gradient',
        confidence=1.0,
        source='a fact of the run',
    )


def _small_mask_gradient(found: Gradients, facts: Facts) -> Cause | None:
    shares = {part: found.share(part, 'mask') for part in SHARED if part in found.norms}
    shares = {part: share for part, share in shares.items() if math.isfinite(share)}
    if not {'mask', 'cls', 'bbox'} <= set(found.losses) or not shares or max(shares.values()) >= limit('mask_gradient'):
        return None
    weight = facts.weights.get('loss_mask')
    settings = {'model.roi_head.mask_head.loss_mask.loss_weight': 1.0} if weight is not None and weight < 1 else {}
    listed = ', '.join(f'{share:.1%} in the {part}' for part, share in shares.items())
    return Cause(
        'mask-gradient-small',
        'warning',
        f'the share of the mask loss in the gradient is {listed}; limit {limit("mask_gradient"):.0%}.',
        remedy='\n'.join(['A higher weight of the mask loss.', *words(settings)]),
        cause='the masks have no say in what the network sees',
        confidence=0.6,
        source=LIMITS['mask_gradient'].source,
        settings=settings,
    )


def _small_update(found: Gradients, facts: Facts) -> Cause | None:
    updates = {part: found.updates[part] for part in HEADS if part in found.updates}
    if len(updates) < 2:
        return None
    least = min(updates, key=updates.get)
    others = min(value for part, value in updates.items() if part != least)
    if updates[least] >= limit('update') * others:
        return None
    key, like = facts.key_of(least), max(facts.multiplier(part) for part in updates)
    low = 0 < facts.multiplier(least) < like
    settings = {f'{CUSTOM_KEYS}.{key}.lr_mult': plain(like)} if key and low else {}
    return Cause(
        'update-too-small',
        'warning',
        f'one step moves {least} by {updates[least]:.1e} of its weights, the other heads by {others:.1e} or more; limit '
        f'{limit("update"):g} times that.',
        remedy='\n'.join(['A rate for it like that of the other heads.', *words(settings)]),
        cause='a head hardly moves',
        confidence=0.7,
        source=LIMITS['update'].source,
        settings=settings,
    )
