"""Many runs of one config: its folds, seeds, values of its keys. Each is a `mim train` process, and goes on after a stop."""

import contextlib
import copy
import fcntl
import hashlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, DictAction

from mmext.analysis.compare import compare
from mmext.analysis.compare_report import short_names
from mmext.analysis.config_diff import comparable, config_differences
from mmext.analysis.digest import duration
from mmext.analysis.runs import parse_config, read_run
from mmext.atomic_file import write_atomically
from mmext.data.coco_file import check_for_training
from mmext.data.folds import Folds, make_folds, write_folds
from mmext.errors import InputError, did_you_mean, raise_all, some
from mmext.hooks.resume import newest_whole_checkpoint
from mmext.optim.group_report import load_config, report

SEED = 'randomness.seed'
CUSTOM_KEYS = 'optim_wrapper.paramwise_cfg.custom_keys'
# the output of a run's processes, in its work_dir. They hold a lock on it as long as any of them lives
CONSOLE = 'console.txt'
# what the runner and the collecting of results need of a run
_RECORDING = {'run_end': 'mmext.RunEndHook', 'predictions': 'mmext.PredictionsHook'}
_POLL_SECONDS = 0.1
# a training that is told to end does so at once; one that hangs in a driver does not
_PATIENCE_SECONDS = 10
_LONGEST_VALUE = 40


@dataclass(frozen=True)
class Job:
    """A run: its ``name``, the dotted settings that are its own, its ``config`` file and its ``work_dir``."""

    name: str
    options: Mapping[str, object]
    config: Path
    work_dir: Path


@dataclass(frozen=True)
class Plan:
    """Runs of one config in one folder. ``folds``: what they are validated on, None in a sweep."""

    cfg: Config
    jobs: tuple[Job, ...]
    folder: Path
    folds: Folds | None = None

    def write(self) -> None:
        """Write the folds and the runs' configs.

        Raises:
            InputError: the folder has those of another config, or other folds.
        """
        texts = [config_text(self.cfg, job) for job in self.jobs]
        raise_all([mistake for job, text in zip(self.jobs, texts, strict=True) if (mistake := _other_config(job, text))])
        if self.folds:
            write_folds(self.folds, fold_folder(self.folder))
        for job, text in zip(self.jobs, texts, strict=True):
            write_atomically(text.encode(), job.config)


def fold_folder(folder: Path) -> Path:
    """Where a cross-validation has the annotation files of its folds."""
    return folder / 'folds'


def _job(folder: Path, name: str, options: Mapping[str, object]) -> Job:
    # the config beside the work_dirs: MMEngine writes its own copy into the work_dir, under the same name
    return Job(name, options, folder / 'configs' / f'{name}.py', folder / name)


def config_text(cfg: Config, job: Job) -> str:
    """The config of a run, whole and without bases, so that later changes of those do not reach half of the runs.

    Raises:
        InputError: a setting does not fit into the config.
    """
    one = copy.deepcopy(cfg)
    try:
        one.merge_from_dict(dict(job.options))
    except (TypeError, KeyError, IndexError, AssertionError) as error:
        raise InputError(f'{job.name}: its settings {some(job.options)} do not fit into the config: {error}') from error
    return one.pretty_text


def _other_config(job: Job, text: str) -> str | None:
    if not job.config.exists():
        return None
    before = job.config.read_text(encoding='utf-8')
    if before == text:
        return None
    try:
        keys = config_differences([comparable(parse_config(one)) for one in (before, text)])
    except (SyntaxError, ValueError):
        keys = ()
    what = some(keys) if keys else 'paths, or settings that change no result'
    return (
        f'{job.config}: {job.name} was begun with another config; it differs in {what}. Give another --out, or remove '
        f'{job.work_dir} and {job.config}.'
    )


# ---- which runs: folds


def plan_folds(
    config: str,
    cfg_options: Sequence[str],
    number: int,
    folder: Path,
    group_by: str | None = None,
    seed: int | None = None,
    ann_file: Path | None = None,
) -> Plan:
    """The runs of a cross-validation: one a fold, alike in everything but the images.

    Args:
        config: a config file or a recipe's name; cfg_options ``KEY=VALUE`` strings.
        number: of folds.
        folder: of the runs.
        group_by: see :func:`mmext.data.folds.make_folds`.
        seed: of the folds and of every training; the config's own when None, or 0.
        ann_file: COCO file to fold, in place of the one that the config trains on.

    Raises:
        InputError: the config or the file cannot be cut into folds.
    """
    cfg = load_config(config, cfg_options)
    if seed is None:
        seed = (cfg.get('randomness') or {}).get('seed') or 0
    trained = trained_on(cfg)
    folds = make_folds(ann_file or trained.ann_file, number, group_by, seed)
    raise_all(check_for_training(folds.coco, trained.folder))
    folder = Path(folder).absolute()
    places = [fold_folder(folder) / name for name in folds.names]
    options = [
        {**fold_options(cfg, place / 'train.json', place / 'val.json'), SEED: seed, **recording(cfg)} for place in places
    ]
    jobs = (_job(folder, name, one) for name, one in zip(folds.names, options, strict=True))
    return Plan(cfg, tuple(jobs), folder, folds)


@dataclass(frozen=True)
class Trained:
    """The one COCO file that a config trains on, and its images: ``prefixes`` name to folder, ``folder`` of the images."""

    ann_file: Path
    prefixes: Mapping[str, Path]

    @property
    def folder(self) -> Path:
        return self.prefixes['img']


def trained_on(cfg: Config) -> Trained:
    """What a config trains on.

    Raises:
        InputError: nothing, more than one COCO file, or a part of one by ``indices``.
    """
    found = {}
    for _, dataset in _with_ann_file('train_dataloader', cfg.get('train_dataloader')):
        root = Path(dataset.get('data_root') or '')
        prefixes = {'img': '', **(dataset.get('data_prefix') or {})}
        # as MMEngine joins them: an absolute path stays as it is
        folders = {name: (root / prefix).absolute() for name, prefix in prefixes.items() if isinstance(prefix, str)}
        one = Trained((root / dataset['ann_file']).absolute(), folders)
        found[one.ann_file, one.folder] = one
    if len(found) != 1:
        files = ': ' + some(path for path, _ in found) if found else ''
        raise InputError(
            f'train_dataloader: it reads {len(found)} COCO files{files}. Folds are cut of exactly one: join them to one '
            'file with one image folder.'
        )
    return next(iter(found.values()))


def fold_options(cfg: Config, train: Path, val: Path) -> dict[str, object]:
    """Settings by which a config trains and validates on a fold, with the images that it trains on.

    Every data set of a loader is set, inside wrappers too, and every evaluator that reads a COCO file. Those of the test
    are set as those of the validation where there are any.

    Args:
        train, val: COCO files of the fold.

    Raises:
        InputError: the config has no validation, or takes a part of a file by ``indices``.
    """
    folders = trained_on(cfg).prefixes
    options: dict[str, object] = {}
    mistakes = []
    for part in ('train', 'val', 'test'):
        loader = f'{part}_dataloader'
        datasets = list(_with_ann_file(loader, cfg.get(loader)))
        if part == 'val' and not datasets:
            mistakes.append('val_dataloader: it reads no COCO file, so there is nothing to validate a fold with.')
        for key, dataset in datasets:
            options[f'{key}.ann_file'] = str(train if part == 'train' else val)
            if part != 'train':
                options |= {f'{key}.data_prefix.{name}': f'{folder}/' for name, folder in folders.items()}
            if dataset.get('indices') is not None:
                mistakes.append(
                    f'{key}.indices={dataset["indices"]!r} takes a part of the file by place, which is another one in each '
                    f'fold. Set --cfg-options {key}.indices=None, and give a file of these images with --ann.'
                )
        if part != 'train':
            evaluator = f'{part}_evaluator'
            options |= {f'{key}.ann_file': str(val) for key, _ in _with_ann_file(evaluator, cfg.get(evaluator))}
    raise_all(mistakes)
    return options


def _with_ann_file(key: str, node: object) -> Iterator[tuple[str, Mapping]]:
    """Every dict with an annotation file in a part of a config, however deep, and its dotted key."""
    if isinstance(node, Mapping):
        if isinstance(node.get('ann_file'), str) and node['ann_file']:
            yield key, node
        children = ((name, child) for name, child in node.items() if name != 'pipeline')
    else:
        children = enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from _with_ann_file(f'{key}.{name}', child)


def recording(cfg: Config) -> dict[str, object]:
    """Settings that add the hooks by which a run's end and predictions are kept, where a config has them not."""
    hooks = cfg.get('default_hooks') or {}
    types = [hook.get('type') for hook in [*hooks.values(), *(cfg.get('custom_hooks') or ())] if hook]
    options: dict[str, object] = {
        f'default_hooks.{name}': {'type': kind, '_delete_': True} if name in hooks else {'type': kind}
        for name, kind in _RECORDING.items()
        if kind not in types
    }
    imports = list((cfg.get('custom_imports') or {}).get('imports') or ())
    if options and 'mmext.registry' not in imports:
        options['custom_imports'] = {'imports': [*imports, 'mmext.registry'], 'allow_failed_imports': False}
    return options


# ---- which runs: values


def plan_sweep(config: str, cfg_options: Sequence[str], settings: Sequence[str], seeds: str | None, folder: Path) -> Plan:
    """The runs of a sweep: one for every combination of values and seeds.

    Args:
        config: a config file or a recipe's name; cfg_options ``KEY=VALUE`` strings.
        settings: ``KEY=VALUE,VALUE,...`` strings.
        seeds: ``0,1,2``; None leaves the config's.
        folder: of the runs.

    Raises:
        InputError: a key is not in the config, a value or seed stands twice or is none.
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        key, found = parse_setting(setting)
        if key in values:
            raise InputError(f'--set: {key} is given twice. Give its values in one: --set {key}=1,2.')
        values[key] = found
    if seeds is not None:
        if SEED in values:
            raise InputError(f'--set {SEED} and --seeds say the same. Give one of them.')
        values[SEED] = split_values(seeds)
        wrong = [seed for seed in values[SEED] if not re.fullmatch(r'\d+', seed)]
        if wrong:
            raise InputError(f'--seeds: {wrong[0]!r} is not a whole number from 0, as in --seeds 0,1,2.')
    if not values:
        raise InputError('There is nothing to sweep. Give --set KEY=VALUE,VALUE, --seeds 0,1,2, or both.')
    cfg = load_config(config, cfg_options)
    raise_all([mistake for key in values if key != SEED and (mistake := unknown_key(cfg, key))])
    own = [f'{key}={found[0]}' for key, found in values.items() if key.startswith(f'{CUSTOM_KEYS}.')]
    if own:  # a name that matches no parameter would end every run at its start
        report(config, [*cfg_options, 'load_from=None', *own], False, None)
    folder = Path(folder).absolute()
    return Plan(cfg, tuple(sweep_jobs(values, recording(cfg), folder)), folder)


def sweep_jobs(values: Mapping[str, Sequence[str]], always: Mapping[str, object], folder: Path) -> list[Job]:
    """A run for every combination of values, the last key's changing first.

    Args:
        values: dotted key to the texts of its values.
        always: settings of all runs.

    Raises:
        InputError: two runs would have one name.
    """
    names = short_names(list(values))
    jobs = []
    for combination in itertools.product(*values.values()):
        own = dict(zip(values, combination, strict=True))
        name = '_'.join(f'{names[key]}={_in_a_name(text)}' for key, text in own.items())
        jobs.append(_job(folder, name, {**{key: parse_value(text) for key, text in own.items()}, **always}))
    twice = {job.name for job in jobs if sum(job.name == other.name for other in jobs) > 1}
    if twice:
        raise InputError(f'--set: several runs would have the name {some(sorted(twice))}. Give each value once.')
    return jobs


def _in_a_name(text: str) -> str:
    """A value's text as a part of a folder's name; of a long one the end, and what tells it from others with that end."""
    # a minus sign stays, the dashes that stand for brackets and quotes at the ends go
    kept = re.sub(r'[^\w.+-]+', '\0', text).strip('\0').replace('\0', '-')
    if len(kept) <= _LONGEST_VALUE:
        return kept
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f'{digest}-{kept[-_LONGEST_VALUE + len(digest) + 1 :]}'


def parse_setting(setting: str) -> tuple[str, list[str]]:
    """``KEY=1,5,[2,3]`` as its key and the texts of its values.

    Raises:
        InputError: it is none.
    """
    key, equals, text = setting.partition('=')
    values = split_values(text)
    if not equals or not key or not all(values):
        raise InputError(f'--set: {setting!r} is not KEY=VALUE,VALUE, such as optim_wrapper.optimizer.lr=0.001,0.002.')
    return key, values


def split_values(text: str) -> list[str]:
    """At the commas that stand in no brackets and no quotes.

    Raises:
        InputError: brackets or quotes do not match.
    """
    parts, inside, quote = [''], [], ''
    for letter in text:
        if quote:
            quote = '' if letter == quote else quote
        elif letter in '\'"':
            quote = letter
        elif letter in '([':
            inside.append(letter)
        elif letter in ')]' and (not inside or inside.pop() + letter not in ('()', '[]')):
            inside.append(letter)
            break
        if letter == ',' and not inside and not quote:
            parts.append('')
        else:
            parts[-1] += letter
    if inside or quote:
        raise InputError(f'{text!r}: its brackets or quotes do not match, as they do in [1,2],[3,4].')
    return [part.strip() for part in parts]


def parse_value(text: str) -> object:
    """A value as ``--cfg-options`` reads it; its brackets match."""
    return DictAction._parse_iterable(text)


def unknown_key(cfg: Config, key: str) -> str | None:
    """What is wrong with a dotted key that a config has not, in words; None of one that it has.

    A new entry of custom_keys is none that it must have.
    """
    if key.startswith(f'{CUSTOM_KEYS}.'):
        return None
    node: object = cfg._cfg_dict
    walked: list[str] = []
    for part in key.split('.'):
        names = list(node) if isinstance(node, Mapping) else [str(i) for i in range(len(node))] if _is_list(node) else []
        if part not in names:
            ends = [one for one in _dotted('', cfg._cfg_dict) if one.endswith(f'.{key}')]
            near = f'Did you mean {ends[0]!r}? ' if ends else did_you_mean(part, names)
            where = '.'.join(walked) or 'the config'
            have = f'It has: {some(names, 12)}. ' if names else ''
            return (
                f'--set: {key}: {where} has no {part!r}. {near}{have}One that is not written in the config must get a value '
                f'first: --cfg-options {key}=VALUE.'
            )
        node = node[int(part)] if _is_list(node) else node[part]
        walked.append(part)
    return None


def _is_list(node: object) -> bool:
    return isinstance(node, (list, tuple))


def _dotted(prefix: str, node: object) -> Iterator[str]:
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if _is_list(node) else ()
    for name, child in children:
        yield f'{prefix}{name}'
        yield from _dotted(f'{prefix}{name}.', child)


# ---- how they are run


def is_finished(job: Job) -> bool:
    """Whether a run has come to its end, by its run_end.json."""
    return read_run(job.work_dir, most=1).end is not None


def goes_on(job: Job) -> bool:
    """Whether a run that is not finished has a checkpoint to go on from.

    Raises:
        InputError: it has some, and none can be read. It is not begun anew, as that would remove what it has logged.
    """
    try:
        return newest_whole_checkpoint(job.work_dir)[0] is not None
    except InputError as error:
        raise InputError(f'{error}\nTo begin {job.name} anew, remove {job.work_dir}.') from None


def is_training(job: Job) -> bool:
    """Whether processes of a run hold the lock on its output: of an earlier start of the command, or of a cluster's job."""
    console = job.work_dir / CONSOLE
    if not console.exists():
        return False
    with console.open('ab') as file:
        return not _lock(file)


def command(job: Job, resume: bool) -> list[str]:
    """The command of a run."""
    mim = Path(sys.executable).with_name('mim')
    words = [mim, 'train', 'mmdet', job.config, '--work-dir', job.work_dir, *(['--resume'] if resume else [])]
    return list(map(str, words))


def slots_of(devices: str | None, jobs: int | None) -> list[dict[str, str]]:
    """What is set in the environment of each of the processes that run at the same time.

    Args:
        devices: ``0,1`` as CUDA_VISIBLE_DEVICES has them, a process on each; with ``jobs`` more processes they take turns.
        jobs: processes at the same time, on the CPU when no devices are given. One, on what MMDetection finds, by default.

    Raises:
        InputError: a device has no name.
    """
    names = devices.split(',') if devices else []
    if not all(name.strip() for name in names):
        raise InputError(f'--devices: {devices!r} has an empty name. Give them as in --devices 0,1.')
    number = jobs or len(names) or 1
    if names:
        slots = [{'CUDA_VISIBLE_DEVICES': names[i % len(names)].strip()} for i in range(number)]
    else:
        slots = [{'CUDA_VISIBLE_DEVICES': '-1'} if jobs else {} for _ in range(number)]
    if 'OMP_NUM_THREADS' in os.environ:
        return slots
    return [{**slot, 'OMP_NUM_THREADS': str(max(1, _cores() // number))} for slot in slots]


def _cores() -> int:
    # of a container or a cluster's job, not of the machine
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@dataclass(frozen=True)
class _Running:
    """A run in progress. ``process``: None of one that an earlier start of the command has left behind; ``output``: where in
    its console file its own begins."""

    job: Job
    slot: Mapping[str, str]
    process: subprocess.Popen | None
    begin: float
    output: int = 0


def run_jobs(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    tell: Callable[[str], None] = print,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    make_command: Callable[[Job, bool], list[str]] = command,
) -> list[str]:
    """Run what is not finished yet, as many at a time as there are slots.

    A finished run is skipped, one with a checkpoint resumed, any other begun anew. One that an earlier start has left
    behind and that is still training is waited for. A crash ends no other run. On Ctrl-C, SIGTERM and SIGHUP the
    processes are ended.

    Args:
        jobs: whose configs are written.
        slots: of :func:`slots_of`.
        tell: takes a line for each run that has ended.
        progress: is told what is done, how much of it, and of how much.
        make_command: of a job and whether it is resumed.

    Returns:
        What became of the runs that did not finish, a line each.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    waiting = deque(job for job in jobs if not is_finished(job))
    skipped = len(jobs) - len(waiting)
    if skipped:
        tell(f'{skipped} of {len(jobs)} runs are finished already and are skipped.')
    free, running, crashed, took = list(slots), [], [], []
    with _stop_signals() as stopped:
        try:
            while (waiting or running) and not stopped:
                while waiting and free:
                    job = waiting.popleft()
                    try:
                        running.append(_start(job, free[0], tell, make_command))
                    except InputError as error:
                        tell(f'{job.name}: is not started.')
                        crashed.append(f'{job.name}: {error}')
                    else:
                        free.pop(0)
                for one in [one for one in running if _has_ended(one)]:
                    running.remove(one)
                    free.append(one.slot)
                    if one.process is None and not is_finished(one.job):
                        waiting.append(one.job)  # it was broken off, too
                        continue
                    seconds = time.monotonic() - one.begin
                    took += [seconds] if one.process is not None else []
                    line, problem = _outcome(one, seconds)
                    left = len(waiting) + len(running)
                    rest = (
                        f', about {duration(sum(took) / len(took) * max(1, left / len(slots)))} left'
                        if left and took
                        else ''
                    )
                    tell(f'{line} {len(jobs) - left} of {len(jobs)}{rest}.')
                    if problem:
                        crashed.append(problem)
                progress('runs', len(jobs) - len(waiting) - len(running), len(jobs))
                time.sleep(_POLL_SECONDS)
        finally:
            _end(running)
    if stopped:
        tell(f'Stopped, with {len(waiting) + len(running)} runs to go. The same command goes on where it was.')
        for one in running:
            if one.process is None:
                tell(f'{one.job.name} is not of this start of the command, and goes on.')
        raise KeyboardInterrupt
    return crashed


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Signals that are to end the runs, gathered while the block runs: an exception amid the start of a process would lose
    it. A SIGHUP that is ignored (nohup) stays so."""
    caught: list[int] = []
    names = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])]
    before = {name: signal.signal(name, lambda number, frame: caught.append(number)) for name in names}
    try:
        yield caught
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _start(job: Job, slot: Mapping[str, str], tell: Callable[[str], None], make_command) -> _Running:
    job.work_dir.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with (job.work_dir / CONSOLE).open('ab') as console:
        if not _lock(console):
            tell(f'{job.name} is still training, of an earlier start. It is waited for.')
            return _Running(job, slot, None, begin)
        if is_finished(job):  # an earlier start's, since we looked
            return _Running(job, slot, None, begin)
        resume, output = goes_on(job), console.tell()
        if not resume:
            _remove_starts(job.work_dir)
        # a session of its own: a Ctrl-C on the terminal reaches us alone, and we end all of its processes
        process = subprocess.Popen(
            make_command(job, resume),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, **slot},
            start_new_session=True,
        )
    return _Running(job, slot, process, begin, output)


def _lock(console) -> bool:
    """Lock an open file; False when the processes of a run hold it. It is theirs from then on, until the last has ended,
    however that comes about."""
    try:
        fcntl.flock(console, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network disk without locks
        return True
    return True


def _remove_starts(work_dir: Path) -> None:
    """Logs of a run that broke off before its first checkpoint: with those of the next start they would be two runs."""
    for start in work_dir.glob('*/vis_data'):
        shutil.rmtree(start.parent)


def _has_ended(one: _Running) -> bool:
    if one.process is not None:
        return one.process.poll() is not None
    return not is_training(one.job)


def _outcome(one: _Running, seconds: float) -> tuple[str, str | None]:
    """The line on a run that has ended, and what is wrong with it."""
    job = one.job
    if one.process is None:
        return f'{job.name}: finished{_score(job)}.', None
    status, after = one.process.returncode, f'after {duration(seconds)}'
    _kill(one.process, signal.SIGKILL)  # `mim` may have been killed without the training that it had started
    if is_finished(job):
        return f'{job.name}: finished {after}{_score(job)}.', None
    console = job.work_dir / CONSOLE
    with console.open('rb') as file:
        file.seek(one.output)
        how = how_it_ended(status, file.read().decode(errors='replace'))
    problem = f'{job.name}: {how}. Its output: {console}'
    return f'{job.name}: did not finish {after} ({how.partition(":")[0]}).', problem


def _score(job: Job) -> str:
    answer = compare([job.work_dir])
    value = answer.rows[-1][answer.metric]
    return '' if value is None else f', {answer.columns[answer.metric].heading} {value:.3f}'


def how_it_ended(status: int, output: str) -> str:
    """Why a run did not finish, in words.

    Args:
        status: of its process; below 0 the signal that killed it.
        output: of the process. mim tells there what has killed the training that it had started.
    """
    lines = output.splitlines()
    below = [match[1] for line in lines if (match := re.search(r'CalledProcessError.* died with <Signals\.(\w+)', line))]
    killed = signal.Signals(-status).name if status < 0 else below[-1] if below else None
    if killed:
        return f'killed by {killed}' + (': by a person, or for want of memory' if killed == 'SIGKILL' else '')
    errors = [line for line in lines if re.match(r'[\w.]+(Error|Exception|Interrupt)\b', line)]
    last = next((line for line in reversed(errors) if 'CalledProcessError' not in line), None)
    return f'exit code {status}' + ('' if last is None else f': {last[:300].rstrip(".")}')


def _end(running: Sequence[_Running]) -> None:
    """End the processes of runs: first asked, then made to."""
    ours = [one.process for one in running if one.process is not None]
    for process in ours:
        _kill(process, signal.SIGTERM)
    limit = time.monotonic() + _PATIENCE_SECONDS
    for process in ours:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, limit - time.monotonic()))
        _kill(process, signal.SIGKILL)
        process.wait()


def _kill(process: subprocess.Popen, number: int) -> None:
    """Signal to a process and all that it has started, which are in one group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


# ---- on a cluster


def slurm_script(jobs: Sequence[Job], folder: Path, after: str) -> str:
    """An array job for Slurm over the runs that are not finished, to be given to ``sbatch``.

    Args:
        folder: of the runs; Slurm's output goes there.
        after: command that gathers the results.

    Raises:
        InputError: all runs are finished or training, or a run's checkpoints cannot be read.
    """
    left = [job for job in jobs if not is_finished(job)]
    if not left:
        raise InputError(f'All {len(jobs)} runs are finished. Gather the results: {after}')
    training = [job.name for job in left if is_training(job)]
    left = [job for job in left if job.name not in training]
    if not left:
        raise InputError(f'{some(training)}: still training, and all others are finished. When they have ended: {after}')
    if set('"\n') & set(str(folder)):
        raise InputError(f'--out: {str(folder)!r} has a quote or a line break in it, which #SBATCH cannot have.')
    output = str(folder).replace('%', '%%')
    cases = [f'{place}) {_locked(job)} ;;' for place, job in enumerate(left)]
    others = 'the others are finished' + (f' or still training ({some(training)})' if training else '')
    return '\n'.join(
        [
            '#!/bin/bash',
            f"# {len(left)} of {len(jobs)} runs, {others}. Options of sbatch go before these lines' own:",
            '#     sbatch --partition=NAME --time=HH:MM:SS --cpus-per-task=4 FILE',
            '# What did not finish goes on: print this script again with the same command, and submit that.',
            f'#SBATCH --job-name={re.sub(r"[^A-Za-z0-9._-]", "-", folder.name)}',
            f'#SBATCH --array=0-{len(left) - 1}',
            '#SBATCH --gres=gpu:1',
            f'#SBATCH --output="{output}/slurm-%A_%a.txt"',
            '# started again by Slurm a run would begin anew, over its checkpoints',
            '#SBATCH --no-requeue',
            f'cd {shlex.quote(str(Path.cwd()))} || exit 1',
            'case "$SLURM_ARRAY_TASK_ID" in',
            *cases,
            f'*) echo "SLURM_ARRAY_TASK_ID must be 0 to {len(left) - 1}" >&2; exit 2 ;;',
            'esac',
            '# When all have ended:',
            *(f'#     {line}' for line in after.splitlines()),
            '',
        ]
    )


def _locked(job: Job) -> str:
    """A run's line of a script: it holds the lock on its output, so that no other start of it begins beside it."""
    run = ['flock', '--nonblock', str(job.work_dir / CONSOLE), *command(job, goes_on(job))]
    return f'mkdir -p {shlex.quote(str(job.work_dir))} && exec {shlex.join(run)}'
