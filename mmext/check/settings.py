"""Whether the settings of a config fit each other and its data: classes, evaluators, weights, schedule, rates."""

import contextlib
import filecmp
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mmengine.config import Config
from torch import nn

from mmext.analysis.findings import Finding, first
from mmext.check.checkpoints import entry_of, fresh_of, frozen_findings, preprocessing_findings
from mmext.check.instances import class_names
from mmext.check.parts import DataPart
from mmext.check.rates import plateau_findings, rate_findings, run_of, schedule_findings, schedulers_of
from mmext.data.own_data import OTHER_CLASSES
from mmext.errors import InputError, some
from mmext.optim.group_report import build_optimizer

_found = partial(Finding, where='config')

_CLASS_KEYS = ('num_classes', 'num_things_classes')  # Mask2Former has the second


def class_counts(model: object, path: str = 'model') -> dict[str, int]:
    """Every setting of a config's ``model`` that counts the classes of the instances: dotted path to its value."""
    if isinstance(model, Mapping):
        kind = model.get('type')
        if (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1] in OTHER_CLASSES:
            return {}
        found = {f'{path}.{key}': model[key] for key in _CLASS_KEYS if isinstance(model.get(key), int)}
        for key, value in model.items():
            if key != 'rpn_head':  # whose one class is an object or none
                found |= class_counts(value, f'{path}.{key}')
        return found
    if isinstance(model, (list, tuple)):
        return {key: n for i, item in enumerate(model) for key, n in class_counts(item, f'{path}.{i}').items()}
    return {}


def class_findings(cfg: Config, parts: Sequence[DataPart]) -> list[Finding]:
    """Heads with another number of classes than the data sets, and data sets whose classes differ from each other."""
    findings, names = [], {}
    for part in parts:
        with contextlib.suppress(InputError):  # said where the names are held against the file
            names.setdefault(part.name, class_names(part))
    train = names.get('train')
    wrong = {path: count for path, count in class_counts(cfg.get('model')).items() if train and count != len(train)}
    if wrong:
        findings.append(
            _found(
                code='num-classes-mismatch',
                severity='severe',
                text=f'The training data has the classes {some(train)}, {len(train)} in all; settings of the model with '
                f'another number: {len(wrong)}.',
                count=len(wrong),
                examples=first(f'{path} is {count}' for path, count in wrong.items()),
                remedy='\n'.join(f'{path}={len(train)}' for path in wrong),
            )
        )
    val = names.get('val')
    if train and val and train != val:
        findings.append(
            _found(
                code='classes-differ',
                severity='severe',
                text=f'The training data has the classes {some(train)}; the validation data {some(val)}. A label is the '
                "class's place in that list.",
                remedy='Give the data sets of val_dataloader the metainfo of those of train_dataloader.',
            )
        )
    return findings


def evaluator_findings(cfg: Config) -> list[Finding]:
    """Evaluators that read another annotation file than the data that they are given."""
    findings = []
    for name in ('val', 'test'):
        loader = cfg.get(f'{name}_dataloader')
        dataset = loader.get('dataset') if loader else None
        while dataset and 'dataset' in dataset:
            dataset = dataset['dataset']
        if not dataset or not dataset.get('ann_file'):
            continue
        theirs = Path(dataset.get('data_root') or '') / dataset['ann_file']
        evaluators = cfg.get(f'{name}_evaluator') or []
        one = isinstance(evaluators, Mapping)
        for place, evaluator in enumerate([evaluators] if one else evaluators):
            key = f'{name}_evaluator' if one else f'{name}_evaluator.{place}'
            given = evaluator.get('ann_file')
            if given and not _same_file(Path(given), theirs):
                findings.append(
                    _found(
                        code='evaluator-other-file',
                        severity='severe' if name == 'val' else 'warning',
                        text=f'{key} reads {given}, and the images that it is given are those of {theirs}: its '
                        'figures would be wrong, or it stops.',
                        remedy=f'{key}.ann_file={theirs}',
                    )
                )
    return findings


def _same_file(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def validation_findings(cfg: Config) -> list[Finding]:
    """A validation that comes once, at the end, because its interval is longer than the run; or never."""
    train_cfg = cfg.get('train_cfg') or {}
    length = train_cfg.get('max_epochs') or train_cfg.get('max_iters')
    if not length:
        return [
            _found(
                code='run-without-length',
                severity='severe',
                text='train_cfg sets neither max_epochs nor max_iters, so the run has no length.',
                remedy='train_cfg.max_epochs=50',
            )
        ]
    if not cfg.get('val_dataloader'):
        return []
    by_epoch = bool(train_cfg.get('max_epochs'))
    interval, begin = train_cfg.get('val_interval', 1 if by_epoch else 1000), train_cfg.get('val_begin', 1)
    unit = 'epochs' if by_epoch else 'iterations'
    if begin > length:
        return [
            _found(
                code='validation-never',
                severity='warning',
                text=f'The first validation is after {begin} {unit}, and the run has {length}: there is none, and no best '
                'checkpoint.',
                remedy='train_cfg.val_begin=1',
            )
        ]
    if interval <= length:
        return []
    return [
        _found(
            code='validation-only-at-the-end',
            severity='warning',
            text=f'A validation every {interval} {unit} is longer than the run of {length}: the only one is at the end, so '
            'no checkpoint can be told to be the best.',
            remedy=f'train_cfg.val_interval={1 if by_epoch else max(1, length // 10)}',
        )
    ]


def weight_findings(cfg: Config, model: nn.Module) -> tuple[list[Finding], dict[str, str] | None]:
    """What is known of ``load_from`` without downloading it, and which tensors it does not fill (None: nothing tells)."""
    load_from = cfg.get('load_from')
    if not load_from:
        return frozen_findings(model, cfg.model, None), None
    entry = entry_of(load_from)
    fresh, findings = fresh_of(model, load_from, entry)
    if fresh is not None:
        findings += frozen_findings(model, cfg.model, fresh)
    if entry:
        findings += preprocessing_findings(cfg.model, load_from, entry)
    elif fresh is not None:
        findings.append(
            _found(
                code='checkpoint-input-unknown',
                severity='information',
                text=f'load_from is none of the checkpoints that MMDetection lists, so nothing tells whether it was trained '
                f'with the mean, deviation and channel order of this config: {load_from}',
            )
        )
    return findings, fresh


def check_settings(
    cfg: Config, parts: Sequence[DataPart], model: nn.Module | None, images: Mapping[Path, int]
) -> list[Finding]:
    """Hold the settings of a config against each other and against its data.

    Args:
        cfg: the config.
        parts: its data sets.
        images: annotation file of the training data to the number of its images that the data set keeps.
        model: the config's, built; None when it cannot be, and then rates and weights are left out.
    """
    findings = [*class_findings(cfg, parts), *evaluator_findings(cfg), *validation_findings(cfg)]
    run = run_of(cfg, images)
    schedulers = schedulers_of(cfg)
    if run is not None:
        findings += schedule_findings(schedulers, run)
        findings += plateau_findings(schedulers, cfg.train_cfg, run)
    if model is None:
        return findings
    of_weights, fresh = weight_findings(cfg, model)
    findings += of_weights
    if run is None or not cfg.get('optim_wrapper'):
        return findings
    try:
        optimizer = build_optimizer(model, cfg.optim_wrapper)
    except Exception as error:  # our constructor's InputError, or whatever a setting makes torch's code raise
        reason = str(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'
        return [
            *findings,
            _found(
                code='optimizer-not-built',
                severity='severe',
                text=f'optim_wrapper: the training would stop at its start: {reason}',
            ),
        ]
    return findings + rate_findings(cfg, run, model, optimizer, fresh)
