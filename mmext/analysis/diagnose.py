"""Why masks are bad, by the records of a run: a verdict, and findings ranked by what they explain. No torch."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mmext.analysis.facts import Facts, Hit, NotJudged
from mmext.analysis.findings import SEVERITIES, Finding, is_problem
from mmext.analysis.remedies import words
from mmext.analysis.rules import BROKEN, RULES, Rule
from mmext.analysis.runs import Run, read_run
from mmext.atomic_file import write_atomically
from mmext.errors import InputError

SCHEMA_VERSION = 1
HEALTHY, PROBLEM, NOT_ENOUGH = 'healthy', 'problem', 'not-enough-evidence'


@dataclass(frozen=True)
class Cause(Finding):
    """A finding on a run that was trained.

    ``cause`` names it in one clause; ``explains`` is the mask IoU or AP that mending it would win, None where no experiment
    has measured it; ``confidence`` 0 to 1; ``source`` where its limits come from; ``settings`` the config lines of the
    remedy, dotted key to value; ``follows_from`` the code of a finding that brings this one about.
    """

    cause: str = ''
    explains: float | None = None
    confidence: float = 0.5
    source: str = ''
    settings: Mapping[str, object] = field(default_factory=dict)
    follows_from: str | None = None


@dataclass(frozen=True)
class Experiment:
    """What an experiment on the checkpoint measured (mmext.probe).

    ``before`` and ``after``: mean mask IoU of ``objects`` objects as they are and with one thing made right; ``error`` the
    standard error of the difference; None where it measures something else, which stands in ``table``: row, then column, to
    number. ``text``: the answer in words, also when nothing was found; ``findings`` what it found.
    """

    name: str
    before: float | None = None
    after: float | None = None
    error: float | None = None
    objects: int = 0
    text: str = ''
    findings: Sequence[Cause] = ()
    table: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    def to_record(self) -> dict:
        """For JSON, without the findings, which stand among those of the diagnosis."""
        names = ('name', 'before', 'after', 'error', 'objects', 'text', 'gain', 'table')
        return {name: getattr(self, name) for name in names}


# masks of the ground truth that are wrong, in one part or in training; which of them brings a thing about is told first
_WRONG_MASKS = ('masks-of-other-objects', 'masks-moved', 'masks-narrow', 'masks-wide', 'annotated-differently')
_UNTRAINED = ('part-unchanged', 'part-without-gradient')
_NOTHING_TAUGHT = ('training-images-empty', 'masks-of-other-objects', *_UNTRAINED)
# a head that is hardly trained is unsure of itself: another threshold seems to mend it
_NOT_WORKING = (*(code for code in BROKEN if code != 'mask-loss-weight'), 'mask-ln2', *_UNTRAINED)
_NO_OBJECTS = ('training-images-empty', 'no-positive-rois')
# what the records or an experiment show, and the findings of experiments that bring it about
_MEASURED = {
    'masks-small': ('masks-narrow', 'masks-of-other-objects', 'mask-threshold', 'annotated-differently', 'mask-grid-coarse'),
    'masks-large': ('masks-wide', 'masks-of-other-objects', 'mask-threshold', 'annotated-differently'),
    'mask-iou-gap': (*_UNTRAINED, *_WRONG_MASKS, 'mask-threshold', 'mask-grid-coarse'),
    'box-mask-gap': (*_UNTRAINED, *_WRONG_MASKS, 'mask-threshold'),
    'val-mask-loss-high': (*_WRONG_MASKS, 'masks-learnt-by-heart'),
    'train-mask-loss-high': (*_WRONG_MASKS, 'training-masks-worse'),
    'ap-near-zero': (*_NOTHING_TAUGHT, 'classes-mixed-up'),
    'no-positive-rois': ('training-images-empty',),
    'mask-ln2': _NOTHING_TAUGHT,
    'losses-not-falling': _NOTHING_TAUGHT,
    'mask-loss-not-falling': _NOTHING_TAUGHT,
    'mask-loss-slow': _NOTHING_TAUGHT,
    'mask-loss-plateau': (*_NOTHING_TAUGHT, 'masks-moved'),
    'mask-share-high': (*_NOTHING_TAUGHT, 'masks-moved'),
    'mask-ap-stuck': (*_NOTHING_TAUGHT, *_WRONG_MASKS),
    'masks-learnt-by-heart': (*_WRONG_MASKS, 'classes-mixed-up'),
    'training-masks-worse': (*_WRONG_MASKS, 'classes-mixed-up'),
    'classes-mixed-up': ('loss-exploding', 'rate-too-high', 'part-not-training', *_UNTRAINED),
    'mask-threshold': (*_WRONG_MASKS, 'classes-mixed-up', *_NOT_WORKING),
    'boxes-hold-masks-back': (*_WRONG_MASKS, 'classes-mixed-up', *_NOT_WORKING),
    'mask-grid-coarse': (*_WRONG_MASKS, 'classes-mixed-up', *_NOT_WORKING),
    'annotated-differently': (*_WRONG_MASKS[:-1], 'classes-mixed-up'),
    'masks-overlap': ('masks-wide', 'masks-of-other-objects'),
    'training-masks-not-learnt': (
        'training-images-empty',
        *_NOT_WORKING,
        *_WRONG_MASKS,
        'classes-mixed-up',
        'mask-threshold',
        'training-masks-worse',
        'cannot-overfit',
    ),
    'part-unchanged': ('part-not-training', 'part-without-gradient', *_NO_OBJECTS),
    'part-without-gradient': ('part-not-training', 'mask-loss-weight', *_NO_OBJECTS),
    'mask-gradient-small': ('part-not-training', 'mask-loss-weight', *_UNTRAINED, *_NO_OBJECTS),
    'update-too-small': ('part-not-training', 'mask-loss-weight', 'mask-rate-low', *_UNTRAINED),
    'cannot-overfit': (
        'loss-exploding',
        'rate-too-high',
        'part-not-training',
        'mask-rate-low',
        'mask-loss-weight',
        'warm-up-unfinished',
        'update-too-small',
        *_UNTRAINED,
        *_NO_OBJECTS,
        *_WRONG_MASKS[:-1],
    ),
}


@dataclass(frozen=True)
class Diagnosis:
    """The answer of ``mmext diagnose``.

    ``status`` is healthy, problem or not-enough-evidence, ``verdict`` says it in a sentence; ``findings`` are ranked;
    ``not_judged``: code of each rule that had too little to go by, and what it lacks; ``remarks``: why it ended, what could
    not be read; ``facts``: how far the run is and where it stands; ``experiments``: what was measured on its checkpoint.
    """

    work_dir: Path
    status: str
    verdict: str
    findings: tuple[Cause, ...] = ()
    not_judged: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    experiments: Sequence[Experiment] = ()

    @property
    def problem(self) -> bool:
        return is_problem(self.findings)

    def to_record(self) -> dict:
        """For JSON: docs/diagnosis.md has the schema."""
        return {
            'schema_version': SCHEMA_VERSION,
            'work_dir': str(self.work_dir),
            'status': self.status,
            'verdict': self.verdict,
            'findings': [asdict(finding) for finding in self.findings],
            'not_judged': dict(self.not_judged),
            'remarks': list(self.remarks),
            'facts': dict(self.facts),
            'experiments': [experiment.to_record() for experiment in self.experiments],
        }

    def to_json(self) -> str:
        return json.dumps(_finite(self.to_record()), indent=2, allow_nan=False) + '\n'

    def write(self, path: Path) -> None:
        """The record as a JSON file."""
        write_atomically(self.to_json().encode(), path)


def _finite(value: object) -> object:
    """The same without NaN and infinities, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def diagnose(work_dir: str | Path) -> Diagnosis:
    """Diagnose a work_dir by its records.

    Raises:
        InputError: there is no run in it.
    """
    run = read_run(work_dir)
    if not run.train and not run.faults:
        raise no_run(run.path, run.problem)
    return diagnose_run(run)


def no_run(work_dir: Path, problem: str | None) -> InputError:
    return InputError(f'{work_dir}: {problem}. WORK_DIR is the folder given to `mim train` with --work-dir.')


def diagnose_run(run: Run, experiments: Sequence[Experiment] = (), remarks: Sequence[str] = ()) -> Diagnosis:
    """Hold a run against every rule, and join what experiments on it found.

    Args:
        run: as read from its work_dir.
        experiments: of mmext.probe.
        remarks: what they were made on.
    """
    facts = Facts(run)
    found, not_judged = [], {}
    for rule in RULES:
        answer = rule.find(facts, {name: limit.value for name, limit in rule.limits.items()})
        if isinstance(answer, NotJudged):
            not_judged[rule.code] = answer.why
        elif answer is not None:
            found.append(to_cause(rule, answer))
    measured = [finding for experiment in experiments for finding in experiment.findings]
    findings = rank([*found, *(replace(finding, text=sentence(finding.text)) for finding in measured)])
    status, verdict = _verdict(facts, findings, not_judged)
    remarks = [*remarks, *([run.end] if run.end else [])]
    if run.problem:
        remarks.append(sentence(f'{run.problem}.'))
    return Diagnosis(
        run.path, status, verdict, tuple(findings), not_judged, tuple(remarks), _summary(facts), tuple(experiments)
    )


def to_cause(rule: Rule, hit: Hit) -> Cause:
    """The finding of a rule that holds."""
    limits = {f'limit_{name}': limit.value for name, limit in rule.limits.items()}
    advice = rule.advice if hit.advice is None else hit.advice
    remedy = '\n'.join([*([advice] if advice else []), *words(hit.settings)])
    return Cause(
        rule.code,
        hit.severity or rule.severity,
        sentence(rule.text.format(**limits, **hit.values)),
        remedy=remedy or None,
        cause=rule.cause,
        confidence=rule.confidence if hit.confidence is None else hit.confidence,
        source=rule.source,
        settings=dict(hit.settings),
    )


def sentence(text: str) -> str:
    """With a capital letter, unless it begins with a name of the log: ``loss_mask``."""
    return text if '_' in text.partition(' ')[0] else text[:1].upper() + text[1:]


def rank(findings: Iterable[Cause]) -> list[Cause]:
    """Causes first: by severity, what they explain, how sure they are; each followed by what it brings about.

    Findings of experiments carry ``explains``; whatever mends more stands before what mends less or is not measured.
    """
    findings = list(findings)
    codes = {finding.code for finding in findings if finding.severity != 'information'}
    explained_by = {rule.code: rule.explained_by for rule in RULES}
    for code, causes in _MEASURED.items():
        explained_by[code] = (*explained_by.get(code, ()), *causes)
    placed = [
        replace(one, follows_from=next((code for code in explained_by.get(one.code, ()) if code in codes), None))
        for one in findings
    ]

    def key(finding: Cause) -> tuple:
        return SEVERITIES.index(finding.severity), -(finding.explains or 0.0), -finding.confidence

    return sorted(placed, key=lambda one: (one.follows_from is not None, *key(one)))


def _verdict(facts: Facts, findings: Sequence[Cause], not_judged: Mapping[str, str]) -> tuple[str, str]:
    so_far = '' if facts.ended else 'So far: '
    problems = [one for one in findings if one.severity != 'information']
    if problems:
        more = len([one for one in problems[1:] if one.follows_from is None])
        others = f', and {more} more finding{"s" if more > 1 else ""} below' if more else ''
        return PROBLEM, sentence(f'{so_far}{problems[0].cause}{others}.')
    lacks = []
    if 'mask-loss-not-falling' in not_judged:
        lacks.append(not_judged['mask-loss-not-falling'])
    if facts.mask_ap is None:
        lacks.append('no validation with mask AP')
    if lacks:
        return NOT_ENOUGH, sentence(f'{so_far}not enough evidence for a verdict: {"; ".join(lacks)}.')
    boxes = '' if facts.box_ap is None else f' beside box AP {facts.box_ap:.3f}'
    more = f'. {len(findings)} remark{"s" if len(findings) > 1 else ""} below' if findings else ''
    return HEALTHY, sentence(f'{so_far}nothing in the records is wrong: mask AP {facts.mask_ap:.3f}{boxes}{more}.')


def _summary(facts: Facts) -> dict[str, object]:
    """What the verdict is about: how far the run is, and where it stands."""
    mask = facts.families.get('mask')
    return {
        'ended': facts.ended,
        'iterations': facts.iterations,
        'done': facts.done,
        'planned': facts.planned,
        'unit': 'epoch' if facts.by_epoch else 'iteration',
        'log_lines': len(facts.run.train),
        'validations': len(facts.run.val),
        'box_ap': facts.box_ap,
        'mask_ap': facts.mask_ap,
        'mask_loss': None if mask is None else facts.late(mask),
        'mask_share': facts.late_shares.get('mask'),
    }
