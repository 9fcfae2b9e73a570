"""Reading a work_dir: what a run was told to do and what its log says. MMDetection's own runs are read too. No torch."""

import ast
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePath

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
_OUTPUTS = ('out_dir', 'work_dir', 'outfile_prefix', '_scope_')
# what a list's key ends with, under which the names of its items stand
ORDER = ' (order)'
# a start's log, in its folder, which has the time of the start as its name
LOG = PurePath('vis_data/scalars.json')
# what names begin with that only a validation logs
_VALIDATION = ('coco/', 'val_loss', 'mask/')
_VALIDATION_BYTES = tuple(f'"{name}'.encode() for name in _VALIDATION)
_LARGEST = 2**63


@dataclass(frozen=True)
class Run:
    """One run: ``config`` dotted key to value; ``train`` and ``val`` the lines of its JSON log; ``problem`` in words, when
    something of it cannot be read; ``end``: why it ended, in words, None when it has not or was killed.

    ``settings``: the config of ``config_file`` as it stands there, nested; ``groups``: the rows of its parameter groups, and
    ``faults`` what mmext.LossGuardHook caught since the last start, each empty where there is none. ``every``: 1 when all
    lines of the log were kept, n when every n-th was.
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
    every: int = 1

    @property
    def name(self) -> str:
        return self.path.name

    def best(self, metric: str) -> float | None:
        """Highest value of a validation metric such as ``coco/segm_mAP``; None when it was never measured."""
        return max((line[metric] for line in self.val if metric in line), default=None)

    def last(self, metric: str) -> float | None:
        """Value of a validation metric at the last validation that has it."""
        return next((line[metric] for line in reversed(self.val) if metric in line), None)


def read_run(work_dir: str | Path, starts: Sequence[Path] | None = None, most: int | None = None) -> Run:
    """Read a work_dir. Of several starts a resumed one goes on from the earlier, one from the beginning takes its place.

    Never raises: what is wrong stands in ``problem``.

    Args:
        work_dir: the folder given to ``mim train`` with ``--work-dir``.
        starts: the folders of the starts to read, oldest first; None for all of the work_dir's.
        most: lines of a start's log to keep, at an even distance, the last one too; None keeps all.
    """
    work_dir = Path(work_dir)
    if not is_folder(work_dir):
        return Run(work_dir, problem='there is no such folder')
    if starts is None:
        logs = sorted(work_dir.glob(f'*/{LOG}'))
    else:
        logs = [start / LOG for start in starts if is_folder(start / LOG.parent)]
    if not logs:
        return Run(work_dir, problem=f'no run in it: there is no */{LOG}')
    problem, train, val, newest, every = None, (), (), len(logs) - 1, 1
    for i, log in enumerate(logs):
        try:
            found = _read_log(log, most)
        except OSError as error:
            problem = f'the log of {log.parent.parent.name} cannot be read: {error.strerror or error}'
            continue
        if found.unreadable:
            problem = f'{found.unreadable} lines of {log.parent.parent.name} cannot be read'
        trained, validated = found.train, found.val
        if trained:
            epochs = {line['step']: line['epoch'] for line in trained if 'epoch' in line and 'step' in line}
            validated = _at_epochs(validated, epochs)
            before = _resumed(train, trained)
            every = max(every, found.every) if before else found.every
            train, val = before + trained, _resumed(val, trained) + validated
            newest = i
    config_file = logs[newest].with_name('config.py')
    try:
        settings = read_config(config_file)
        config = flatten(settings)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:  # Python's parser of deep nesting
        settings, config, problem = {}, {}, f'its config cannot be read: {error}'
    if not train:
        problem = problem or 'it has not logged a training step'
    # a start that logs nothing, such as a test of the model, does not undo an end; a resume of a finished run repeats it
    ends = [read_record(log.parent.with_name(RUN_END)).get('text') for log in logs[newest:]]
    end = next((text for text in reversed(ends) if isinstance(text, str)), None)
    groups = read_record(config_file.parent.with_name(GROUPS)).get('groups')
    faults = [read_record(path) for path in _faults_since(logs[-1].parent.parent.name, work_dir)]
    return Run(
        work_dir,
        config,
        train,
        val,
        problem,
        end,
        config_file if settings else None,
        settings,
        tuple(row for row in groups if isinstance(row, dict)) if isinstance(groups, list) else (),
        tuple(fault for fault in faults if isinstance(fault.get('iteration'), int)),
        every,
    )


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # it is in one that may not be opened
        return False


def _faults_since(start: str, work_dir: Path) -> list[Path]:
    """Records of the guard since a start, which has the name of its folder: those of earlier ones have been dealt with."""
    try:
        since = datetime.strptime(start, '%Y%m%d_%H%M%S').timestamp()
        return [path for path in sorted(work_dir.glob(f'{_GUARD}/iter_*.json')) if path.stat().st_mtime >= since]
    except (ValueError, OSError):  # a folder renamed by hand
        return sorted(work_dir.glob(f'{_GUARD}/iter_*.json'))


def read_record(path: Path) -> dict:
    """A JSON file of ours; empty when there is none, as in a run of stock MMDetection, or when it is broken."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _resumed(before: tuple[dict, ...], trained: tuple[dict, ...]) -> tuple[dict, ...]:
    """What an earlier start of a run has before the epoch with which this one begins: nothing when it begins anew.

    A training by iterations logs no epochs: its steps count.
    """
    unit, first = position(trained[0])
    return tuple(line for line in before if line.get(unit, first) < first)


def position(line: dict) -> tuple[str, float]:
    """Where a line of a training stands: in epochs or, without, in steps, and in which."""
    unit = 'epoch' if 'epoch' in line else 'step'
    return unit, line.get(unit, 1)


def _at_epochs(validated: tuple[dict, ...], epochs: dict[int, int]) -> tuple[dict, ...]:
    """Validation lines with the epoch after which each was taken. Stock counts their ``step`` in epochs, we in iterations.

    Args:
        validated: lines of one log.
        epochs: logged iteration of the training to its epoch.
    """
    if not epochs:
        return validated
    by_epoch = all(line.get('step', 0) <= max(epochs.values()) for line in validated)

    before = min(epochs.values()) - 1  # a resumed start may validate before its first step

    def epoch(step: float) -> float:
        return step if by_epoch else max((epochs[i] for i in epochs if i <= step), default=before)

    return tuple({**line, 'epoch': epoch(line['step'])} if 'step' in line else line for line in validated)


class _Thinned:
    """Of numbered items at most ``most`` at an even distance, the first and the last among them; None keeps all."""

    def __init__(self, most: int | None):
        self._most = most
        self._kept: list[tuple[int, object]] = []
        self._last: tuple[int, object] | None = None
        self.count = 0
        self.every = 1

    def add(self, item: object) -> None:
        if self.count % self.every == 0 and len(self._kept) == self._most:
            self._kept, self.every = self._kept[::2], self.every * 2
        self._last = self.count, item
        if self.count % self.every == 0:
            self._kept.append(self._last)
        self.count += 1

    def items(self) -> dict[int, object]:
        return dict(self._kept) | (dict([self._last]) if self._last else {})


@dataclass(frozen=True)
class _Log:
    """Lines of a start's log: of its training, every ``every``-th, and of its validations; how many cannot be read."""

    train: tuple[dict, ...]
    val: tuple[dict, ...]
    unreadable: int
    every: int


def _read_log(log: Path, most: int | None) -> _Log:
    """The numbers of each line of a JSON log, read line by line.

    Where only some are kept, those in which a loss is no number are kept too, and of validations those with the highest and
    lowest value of each metric.

    Raises:
        OSError: it cannot be read.
    """
    train, val, unreadable = _Thinned(most), _Thinned(most), 0
    broken: dict[int, bytes] = {}
    extremes: dict[tuple[str, bool], tuple[float, int, dict]] = {}
    with log.open('rb') as file:
        for text in file:
            text = text.strip()
            if not text:
                continue
            if text[-1:] != b'}':  # a run that was killed leaves half a line
                unreadable += 1
            elif b'"loss":' in text and not any(name in text for name in _VALIDATION_BYTES):
                if most is not None and len(broken) < most and (b'NaN' in text or b'Infinity' in text):
                    broken[train.count] = text
                train.add(text if most is not None else _numbers(text))
            else:
                line = _numbers(text)
                if line is None:
                    unreadable += 1
                elif any(key.startswith(_VALIDATION) for key in line):
                    for (key, value), highest in itertools.product(line.items() if most is not None else (), (True, False)):
                        value = value if highest else -value
                        if value > extremes.get((key, highest), (-math.inf,))[0]:
                            extremes[key, highest] = value, val.count, line
                    val.add(line)
                elif 'loss' in line:
                    train.add(line)
    trained = train.items() | broken
    lines = [
        _numbers(one) if isinstance(one, bytes) else one for _, one in sorted(trained.items(), key=lambda item: item[0])
    ]
    unreadable += sum(line is None for line in lines)
    validated = val.items() | {place: line for _, place, line in extremes.values()}
    return _Log(
        tuple(line for line in lines if line and 'loss' in line),
        tuple(validated[place] for place in sorted(validated)),
        unreadable,
        train.every,
    )


def training_line(text: bytes) -> dict[str, float] | None:
    """The numbers of a line of a log, when it is of a training step."""
    line = _numbers(text) if b'"loss":' in text else None
    return line if line is not None and 'loss' in line and not any(key.startswith(_VALIDATION) for key in line) else None


def _numbers(text: bytes) -> dict[str, float] | None:
    """The numbers of a line of JSON; None when it is none. A whole number that no float holds is infinite."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    found = {key: value for key, value in line.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    for key, value in found.items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            found[key] = math.inf if value > 0 else -math.inf
    return found


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
            try:
                settings[node.targets[0].id] = _literal(node.value)
            except TypeError as error:  # a list as a key
                raise ValueError(str(error)) from None
    return settings


def _literal(node: ast.AST) -> object:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)


def flatten(settings: dict, names: Callable[[list], Sequence[str]] | None = None) -> dict[str, object]:
    """``{'optim_wrapper.optimizer.lr': 0.002, ...}`` of what the Runner acts on, without places and test settings.

    Args:
        settings: of a config, nested.
        names: what the items of a list of dicts are called in the keys, which then stand under ``KEY (order)`` too;
            without, they are numbered.
    """
    return {
        key: value
        for name in _SETTINGS
        if name in settings
        for key, value in _dotted(name, settings[name], names)
        if key.rpartition('.')[2] not in _OUTPUTS
    }


def _dotted(prefix: str, value: object, names: Callable[[list], Sequence[str]] | None) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _dotted(f'{prefix}.{key}', inner, names)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        called = range(len(value)) if names is None else names(value)
        if names is not None:
            yield prefix + ORDER, list(called)
        for name, inner in zip(called, value, strict=True):
            yield from _dotted(f'{prefix}.{name}', inner, names)
    else:
        place = prefix.rpartition('.')[2] in _PLACES and isinstance(value, str)
        yield prefix, '/'.join(value.rstrip('/').split('/')[-2:]) if place else value
