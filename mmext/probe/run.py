"""All experiments on the checkpoint of a run, for ``mmext diagnose WORK_DIR --deep``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mmext.analysis.diagnose import Experiment
from mmext.analysis.facts import Facts
from mmext.analysis.runs import Run
from mmext.errors import InputError
from mmext.loops.loss_val_loop import kept_random_state
from mmext.probe import annotation, boxes, channel, fit, gradients, grid, ground_truth, threshold, weights
from mmext.probe.objects import Part, measure
from mmext.probe.subject import IMAGES, Subject, load_subject, why_not
from mmext.probe.truth import Truth, read_truth
from mmext.probe.views import file_views, training_views

SEED = 0  # of the samples: asked twice, a run gets the same answer


@dataclass(frozen=True)
class Probe:
    """``experiments`` in the order of the answer, empty where none applies; ``remarks`` on what, or why not."""

    experiments: tuple[Experiment, ...]
    remarks: tuple[str, ...]


def probe(run: Run, progress: Callable[[str, int, int], None] | None = None, device: str | None = None) -> Probe:
    """Make the experiments on a run.

    Args:
        run: as read from its work_dir.
        progress: called with (what, done, all).
        device: of torch; by default a GPU where there is one.

    Raises:
        InputError: config, checkpoint or data cannot be used.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    with kept_random_state():
        subject = load_subject(run, device, SEED)
        trained, remarks = judge_training(run, subject, progress)
        reason = why_not(subject.model)
        if reason:
            return Probe(trained, (*remarks, f'The experiments on masks do not apply: {reason}.'))
        truths, unseen = look_at_truth(subject, progress)
        remarks += unseen
        parts = {}
        for name, sample in subject.samples.items():
            counting = None
            if progress:
                counting = lambda done, total, name=name: progress(f'experiments on {name}', done, total)  # noqa: E731
            parts[name] = measure(subject, sample, counting)
    remark = f'Experiments on {subject.checkpoint.name} and {_sampled(parts["val"])}, {_sampled(parts["train"])}.'
    if not parts['train'].matched or not parts['val'].matched:
        empty = ' and '.join(name for name, part in parts.items() if not part.matched)
        nothing = f'No detection on {empty} matches an object of its class: the experiments on masks say nothing.'
        return Probe((*ground_truth.judge(truths), *trained), (remark, *remarks, nothing))
    answers = judge(subject, parts['train'], parts['val'], loss_fall(run), truths)
    return Probe((*answers, *trained), (remark, *remarks))


def judge_training(
    run: Run, subject: Subject, progress: Callable[[str, int, int], None] | None = None
) -> tuple[tuple[Experiment, ...], tuple[str, ...]]:
    """What gradients and checkpoints say of the training, and remarks on what they cannot say."""
    facts, counting = Facts(run), None
    if progress:
        counting = lambda done, total: progress('gradients', done, total)  # noqa: E731
    found, remarks = [weights.compare_checkpoints(run.path, subject.cfg, subject.model, facts)], []
    try:
        measured = gradients.measure(run, subject.cfg, subject.model, SEED, counting)
        found.insert(0, gradients.judge(measured, facts))
    except InputError as error:  # the training data may be gone, and the masks of validation can be looked at all the same
        remarks.append(f'No gradients: {error}')
    return tuple(one for one in found if one is not None), tuple(remarks)


def look_at_truth(
    subject: Subject, progress: Callable[[str, int, int], None] | None = None
) -> tuple[dict[str, Truth], tuple[str, ...]]:
    """The ground truth of both samples and of the training, and a remark where its pipeline shows nothing."""
    views = {name: file_views(sample) for name, sample in subject.samples.items()}
    views[ground_truth.VIEW] = training_views(subject.cfg, SEED)
    truths, remarks = {}, ()
    for name, images in views.items():
        total, counting = len(subject.samples[name].places) if name in subject.samples else IMAGES, None
        if progress:
            counting = lambda done, name=name, total=total: progress(f'ground truth of {name}', done, total)  # noqa: E731
        try:
            truths[name] = read_truth(name, images, SEED, counting)
        except InputError as error:
            if name in subject.samples:
                raise
            remarks = (f'The training pipeline was not looked at: {error}',)
    return truths, remarks


def judge(subject: Subject, train: Part, val: Part, fall: float | None, truths: Mapping[str, Truth]) -> list[Experiment]:
    """The experiments that apply, from what was measured on both samples."""
    answers = [
        boxes.judge(val),
        threshold.judge(val, subject.threshold),
        grid.judge(val, subject.cfg),
        fit.judge(train, val, fall),
        channel.judge(val),
        *ground_truth.judge(truths, annotation.judge(train, val), annotation.best_change(train, val)),
    ]
    return [answer for answer in answers if answer is not None]


def loss_fall(run: Run) -> float | None:
    """By which share the mask loss fell over the last third of the log; None when it cannot be told."""
    facts = Facts(run)
    change = facts.change(facts.families.get('mask', np.array([])), 1 / 3)
    return None if change is None else 1 - change.value


def _sampled(part: Part) -> str:
    return f'{part.images} of {part.total} {part.name} images ({len(part.matched)} of {len(part.objects)} objects matched)'
