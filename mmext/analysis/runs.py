"""Reading a work_dir: what a run was told to do and what its log says. MMDetection's own runs are read too. No torch."""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

# what we call a metric, and its key in the log
AP_METRICS = {
    'box AP': 'coco/bbox_mAP',
    'box AP50': 'coco/bbox_mAP_50',
    'mask AP': 'coco/segm_mAP',
    'mask AP50': 'coco/segm_mAP_50',
}
# why a training ended, in the folder of its logs
RUN_END = 'run_end.json'
# its parameter groups, in the same folder, and what mmext.LossGuardHook caught, in the work_dir
GROUPS = 'param_groups.json'
_GUARD = 'loss_guard'
# what the Runner acts on; a dumped config also holds the variables that it was written with
_SETTINGS = (
    'model',
    'train_dataloader',
    'val_dataloader',
    'val_evaluator',
    'train_cfg',
    'val_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'default_hooks',
    'custom_hooks',
    'randomness',
    'load_from',
)
# of where files lie the last two names count: data sets are told apart, machines are not
_PLACES = ('ann_file', 'data_root', 'img', 'load_from')
_OUTPUTS = ('out_dir', 'work_dir')


@dataclass(frozen=True)
class Run:
    """One run: ``config`` dotted key to value; ``train`` and ``val`` the lines of its JSON log; ``problem`` in words, when
    something of it cannot be read; ``end``: why it ended, in words, None when it has not or was killed.

    ``settings``: the config of ``config_file`` as it stands there, nested; ``groups``: the rows of its parameter groups, and
    ``faults`` what mmext.LossGuardHook caught since the last start, each empty where there is none.
    """

    path: Path
    config: dict[str, object] = field(default_factory=dict)
    train: tuple[dict, ...] = ()
    val: tuple[dict, ...] = ()
    problem: str | None = None
    end: str | None = None
    config_file: Path | None = None
    settings: dict[str, object] = field(default_factory=dict)
    groups: tuple[dict, ...] = ()
    faults: tuple[dict, ...] = ()

    @property
    def name(self) -> str:
        return self.path.name

    def best(self, metric: str) -> float | None:
        """Highest value of a validation metric such as ``coco/segm_mAP``; None when it was never measured."""
        return max((line[metric] for line in self.val if metric in line), default=None)

    def last(self, metric: str) -> float | None:
        """Value of a validation metric at the last validation that has it."""
        return next((line[metric] for line in reversed(self.val) if metric in line), None)


def read_run(work_dir: str | Path) -> Run:
    """Read a work_dir. Of several starts a resumed one goes on from the earlier, one from the beginning takes its place.

    Never raises: what is wrong stands in ``problem``.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        return Run(work_dir, problem='there is no such folder')
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not logs:
        return Run(work_dir, problem='no run in it: there is no */vis_data/scalars.json')
    problem, train, val, config_file = None, (), (), logs[-1].with_name('config.py')
    for log in logs:
        lines, unreadable = _read_lines(log)
        if unreadable:
            problem = f'{unreadable} lines of {log.parent.parent.name} cannot be read'
        trained = tuple(line for line in lines if 'loss' in line)
        if trained:
            validated = tuple(line for line in lines if any(key.startswith('coco/') for key in line))
            epochs = {line['step']: line['epoch'] for line in trained if 'epoch' in line and 'step' in line}
            validated = _at_epochs(validated, epochs)
            train, val = _resumed(train, trained) + trained, _resumed(val, trained) + validated
            config_file = log.with_name('config.py')
    try:
        settings = read_config(config_file)
        config = flatten(settings)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:  # Python's parser of deep nesting
        settings, config, problem = {}, {}, f'its config cannot be read: {error}'
    if not train:
        problem = problem or 'it has not logged a training step'
    end = _read_record(logs[-1].parent.with_name(RUN_END)).get('text')
    groups = _read_record(config_file.parent.with_name(GROUPS)).get('groups')
    faults = [_read_record(path) for path in _faults_since(logs[-1].parent.parent.name, work_dir)]
    return Run(
        work_dir,
        config,
        train,
        val,
        problem,
        end if isinstance(end, str) else None,
        config_file if settings else None,
        settings,
        tuple(row for row in groups if isinstance(row, dict)) if isinstance(groups, list) else (),
        tuple(fault for fault in faults if isinstance(fault.get('iteration'), int)),
    )


def _faults_since(start: str, work_dir: Path) -> list[Path]:
    """Records of the guard since a start, which has the name of its folder: those of earlier ones have been dealt with."""
    try:
        since = datetime.strptime(start, '%Y%m%d_%H%M%S').timestamp()
        return [path for path in sorted(work_dir.glob(f'{_GUARD}/iter_*.json')) if path.stat().st_mtime >= since]
    except (ValueError, OSError):  # a folder renamed by hand
        return sorted(work_dir.glob(f'{_GUARD}/iter_*.json'))


def _read_record(path: Path) -> dict:
    """A JSON file of ours; empty when there is none, as in a run of stock MMDetection, or when it is broken."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _resumed(before: tuple[dict, ...], trained: tuple[dict, ...]) -> tuple[dict, ...]:
    """What an earlier start of a run has before the epoch with which this one begins: nothing when it begins anew."""
    first = trained[0].get('epoch', 1)
    return tuple(line for line in before if line.get('epoch', first) < first)


def _at_epochs(validated: tuple[dict, ...], epochs: dict[int, int]) -> tuple[dict, ...]:
    """Validation lines with the epoch after which each was taken. Stock counts their ``step`` in epochs, we in iterations.

    Args:
        validated: lines of one log.
        epochs: logged iteration of the training to its epoch.
    """
    by_epoch = all(line.get('step', 0) <= max(epochs.values(), default=0) for line in validated)

    before = min(epochs.values(), default=1) - 1  # a resumed start may validate before its first step

    def epoch(step: float) -> float:
        return step if by_epoch else max((epochs[i] for i in epochs if i <= step), default=before)

    return tuple({**line, 'epoch': epoch(line['step'])} if 'step' in line else line for line in validated)


def _read_lines(log: Path) -> tuple[list[dict], int]:
    """The numbers of each line of a JSON log, and how many lines are broken: a run that was killed leaves half a line."""
    lines, unreadable = [], 0
    for text in log.read_text(errors='replace').splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            unreadable += 1
            continue
        if isinstance(line, dict):
            lines.append({k: v for k, v in line.items() if isinstance(v, (int, float)) and not isinstance(v, bool)})
        else:
            unreadable += 1
    return lines, unreadable


def read_config(path: Path) -> dict:
    """The settings of a config file as MMEngine dumps it. See :func:`parse_config`.

    Raises:
        OSError: the file cannot be read.
    """
    return parse_config(path.read_text())


def parse_config(text: str) -> dict:
    """The settings of a dumped config: literals and ``dict(...)``, evaluated without running it.

    Raises:
        SyntaxError: it is not Python.
        ValueError: something other than a literal stands in it.
    """
    settings = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            settings[node.targets[0].id] = _literal(node.value)
    return settings


def _literal(node: ast.AST) -> object:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)


def flatten(settings: dict) -> dict[str, object]:
    """``{'optim_wrapper.optimizer.lr': 0.002, ...}`` of what the Runner acts on, without places and test settings."""
    return {
        key: value
        for name in _SETTINGS
        if name in settings
        for key, value in _dotted(name, settings[name])
        if key.rpartition('.')[2] not in _OUTPUTS
    }


def _dotted(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _dotted(f'{prefix}.{key}', inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for position, inner in enumerate(value):
            yield from _dotted(f'{prefix}.{position}', inner)
    else:
        place = prefix.rpartition('.')[2] in _PLACES and isinstance(value, str)
        yield prefix, '/'.join(value.rstrip('/').split('/')[-2:]) if place else value
