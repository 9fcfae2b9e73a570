"""Experiment: has the training moved the weights of each head at all? From the files of checkpoints alone."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmext.analysis.diagnose import Cause, Experiment
from mmext.analysis.facts import HEADS, Facts
from mmext.check.checkpoints import local_file
from mmext.errors import InputError
from mmext.optim.param_groups import part_of
from mmext.probe.weigh import LIMITS, limit
from mmext.safe_load import allow_mmengine_checkpoints


@dataclass(frozen=True)
class Movement:
    """Of a part: its tensors, how many of them both checkpoints have in one shape, how many of those differ, and the length
    of the difference ÷ that of the earlier weights."""

    tensors: int
    compared: int
    changed: int
    moved: float


def movements(parameters: Collection[str], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Movement]:
    """Part to what became of its weights from one state dict to another.

    Args:
        parameters: names of the model's; running statistics, which move in frozen parts too, are not among them.
        before: state dict.
        after: state dict.
    """
    by_part: dict[str, list[str]] = {}
    for name in parameters:
        by_part.setdefault(part_of(name), []).append(name)
    found = {}
    for part, names in by_part.items():
        both = [name for name in names if name in before and name in after and before[name].shape == after[name].shape]
        changes = [float((after[name].double() - before[name].double()).square().sum()) for name in both]
        length = sum(float(before[name].double().square().sum()) for name in both)
        changed = sum(not torch.equal(before[name], after[name]) for name in both)
        found[part] = Movement(len(names), len(both), changed, math.sqrt(sum(changes) / length) if length else 0.0)
    return found


def kept_checkpoints(work_dir: Path) -> list[Path]:
    """The checkpoints that a run kept as it went, oldest first; its best one where there is no other."""
    kept = sorted(work_dir.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    return [path for path in kept if not path.name.startswith('best_')] or kept


def compare_checkpoints(work_dir: Path, cfg: Config, model: nn.Module, facts: Facts) -> Experiment | None:
    """Hold the last checkpoint of a run against load_from and against its oldest one; None where there is too little.

    Args:
        work_dir: of the run.
        cfg: its config.
        model: of the config.
        facts: of the run.

    Raises:
        InputError: a checkpoint that is there cannot be read.
    """
    kept = kept_checkpoints(work_dir)
    if not kept or facts.iterations < limit('iterations'):
        return None
    parameters = [name for name, _ in model.named_parameters()]
    last, last_iteration = _load(kept[-1])
    since_start, since_oldest = {}, {}
    # a resumed run may have one of its own checkpoints there
    start = local_file(str(cfg.load_from)) if cfg.get('load_from') and not cfg.get('resume') else None
    if start is not None and start.resolve() not in [path.resolve() for path in kept]:
        since_start = movements(parameters, _load(start)[0], last)
    if len(kept) > 1:
        oldest, iteration = _load(kept[0])
        if last_iteration - iteration >= limit('iterations'):
            since_oldest = movements(parameters, oldest, last)
    return judge(since_start, since_oldest, facts.iterations) if since_start or since_oldest else None


def judge(since_start: Mapping[str, Movement], since_oldest: Mapping[str, Movement], iterations: float) -> Experiment:
    """Which heads are to the bit what they were.

    Args:
        since_start: of the last checkpoint against load_from; empty without one.
        since_oldest: against the oldest checkpoint that the run kept; empty without another one.
        iterations: that the run took.
    """
    still, partly = [], []
    for part in HEADS:
        found = [one[part] for one in (since_start, since_oldest) if part in one]
        if any(one.changed for one in found) or not any(one.compared for one in found):
            continue
        # between two checkpoints a stage of a staged training may have left it alone
        (still if since_start and since_start[part].compared else partly).append(part)
    findings = []
    for parts, severity, confidence, since in (
        (still, 'severe', 1.0, f'in load_from, after {iterations:.0f} iterations'),
        (partly, 'warning', 0.7, 'in the oldest checkpoint that the run kept'),
    ):
        if parts:
            tensors = [(since_start if severity == 'severe' else since_oldest)[part] for part in parts]
            listed = ', '.join(f'{one.compared} of {one.tensors}' for one in tensors)
            findings.append(
                Cause(
                    'part-unchanged',
                    severity,
                    f'{" and ".join(parts)}: the weights of the last checkpoint are to the bit those {since} (compared: '
                    f'{listed} tensors; the others are new).',
                    remedy='Something freezes it: requires_grad=False in a hook or in code of your own, a rate of 0, '
                    'staged_training.',
                    cause='a head was not trained',
                    confidence=confidence,
                    source=LIMITS['iterations'].source,
                )
            )
    shown = since_start or since_oldest
    table = {
        part: {'tensors': one.tensors, 'compared': one.compared, 'changed': one.changed, 'moved': one.moved}
        for part, one in shown.items()
    }
    text = (
        f'The last checkpoint against {"load_from" if since_start else "the oldest that the run kept"}: tensors that both '
        'have, how many of them changed, and by which part of their length.'
    )
    return Experiment('weights', text=text, findings=tuple(findings), table=table)


def _load(file: Path) -> tuple[dict[str, Tensor], int]:
    """State dict of a checkpoint, and the iteration that it says it is of, 0 when it does not."""
    allow_mmengine_checkpoints()
    try:
        checkpoint = CheckpointLoader.load_checkpoint(str(file), map_location='cpu', logger='silent')
    except Exception as error:
        raise InputError(f'--deep: {file} cannot be loaded: {type(error).__name__}: {error}') from error
    state = checkpoint.get('state_dict', checkpoint)
    iteration = (checkpoint.get('meta') or {}).get('iter') if 'state_dict' in checkpoint else None
    return {name.removeprefix('module.'): value for name, value in state.items()}, int(iteration or 0)
