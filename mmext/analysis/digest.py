"""What a comparison needs of a run: bounded however long its log is, and kept beside the log. No torch."""

import json
import math
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from mmext.analysis.config_diff import comparable
from mmext.analysis.runs import GROUPS, LOG, RUN_END, Run, read_config, read_record, read_run
from mmext.analysis.work_dirs import Place

# log lines of a run that are kept: a screen has no more columns
MOST_LINES = 1_000
# in the folder of the newest log; safe to delete
CACHE = '.mmext_cache.jsonl'
DIAGNOSIS, RECORDS = 'diagnosis.json', 'the records'
# a run that has written nothing for so long, and for the time of so many iterations, is not running any more: a log line is
# of 50 by default, and a validation takes minutes without one
_QUIET_SECONDS, _QUIET_ITERATIONS = 15 * 60, 200
# the modules that read and judge
_CODE = (
    'causes',
    'config_diff',
    'diagnose',
    'digest',
    'facts',
    'findings',
    'remedies',
    'rules',
    'runs',
    'shares',
    'symptoms',
    'trends',
    'work_dirs',
)
# words of MMEngine's EarlyStoppingHook in the text log, and how much of its end they are looked for in
_STOPPED_WORDS = b'the monitored metric did not improve'
_TAIL = 8192

FINISHED, STOPPED, BROKEN_OFF, RUNNING = 'finished', 'stopped early', 'broken off', 'running'
EMPTY, UNREADABLE = 'empty', 'unreadable'


@dataclass(frozen=True)
class Verdict:
    """A diagnosis in short: its ``status``, the ``code`` of its first problem, its sentence, and what it was made from."""

    status: str
    code: str | None
    text: str
    source: str


@dataclass(frozen=True)
class Digest:
    """A run for a comparison.

    ``state`` is one of the names above, ``end`` says it in words; ``ended`` is ``'length'`` or ``'stopped'`` when it has.
    ``idle``: starts that logged no training step. ``done`` of ``planned`` epochs or iterations (``unit``);
    ``seconds`` an iteration (median of the log lines), ``memory`` in MB (highest that the log has). ``last`` is the last
    log line of the training, ``val`` are its validations. ``train`` are log lines of the training at an even distance, the
    last one too, some thousand of each start; empty unless they were asked for.
    """

    path: Path
    name: str
    starts: tuple[str, ...] = ()
    state: str = EMPTY
    end: str | None = None
    problem: str | None = None
    idle: tuple[str, ...] = ()
    ended: str | None = None
    done: float | None = None
    planned: float | None = None
    unit: str = 'epoch'
    iterations: float | None = None
    seconds: float | None = None
    memory: float | None = None
    last: Mapping[str, float] = field(default_factory=dict)
    val: Sequence[Mapping[str, float]] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    verdict: Verdict | None = None
    train: Sequence[Mapping[str, float]] = ()

    @property
    def readable(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.last)


def read_digest(place: Place, curves: bool = False) -> Digest:
    """Read a run, or what was kept of it if none of its files has changed since. Never raises.

    Args:
        place: of :func:`mmext.analysis.work_dirs.find_runs`.
        curves: whether the log lines of the training are wanted.
    """
    if place.problem or not place.starts:
        return Digest(place.work_dir, place.name, state=UNREADABLE, problem=place.problem or 'no run in it')
    key = _key(place)
    digest = _cached(place, key, curves)
    if digest is None:
        digest = _digest(place)
        _keep(place, key, digest)
    state, end = _state(place, digest)
    return replace(digest, state=state, end=end, train=digest.train if curves else ())


# ---- reading


def _digest(place: Place) -> Digest:
    run = read_run(place.work_dir, place.starts, MOST_LINES)
    digest = Digest(
        place.work_dir,
        place.name,
        tuple(start.name for start in place.starts),
        idle=tuple(start.name for start in place.idle),
        end=run.end,
        problem=run.problem,
        config=comparable(_with_its_weights(place, run)),
        val=run.val,
    )
    if not run.train:
        return digest
    last, settings = run.train[-1], run.settings.get('train_cfg')
    settings = settings if isinstance(settings, dict) else {}
    unit = 'epoch' if 'epoch' in last and settings.get('max_iters') is None else 'iteration'
    planned = settings.get('max_epochs' if unit == 'epoch' else 'max_iters')
    iterations = last.get('step', last.get('iter'))
    times = [line['time'] for line in run.train if math.isfinite(line.get('time', math.nan))]
    memories = [line['memory'] for line in run.train if line.get('memory')]
    return replace(
        digest,
        ended=_ended(place, run),
        done=last.get('epoch') if unit == 'epoch' else iterations,
        planned=planned if isinstance(planned, (int, float)) and 0 < planned < 2**63 else None,
        unit=unit,
        iterations=iterations,
        seconds=sorted(times)[len(times) // 2] if times else None,
        memory=max(memories, default=None),
        last=last,
        verdict=_verdict(place, run),
        train=run.train,
    )


def _with_its_weights(place: Place, run: Run) -> dict:
    """A run's settings with the ``load_from`` that it began with: MMDetection's ``--resume`` writes None in its place."""
    if not run.settings.get('resume') or run.settings.get('load_from') is not None:
        return run.settings
    try:
        return {**run.settings, 'load_from': read_config(place.starts[0] / LOG.parent / 'config.py').get('load_from')}
    except (OSError, SyntaxError, ValueError, RecursionError):  # the first start's is damaged: as it stands
        return run.settings


def _verdict(place: Place, run: Run) -> Verdict | None:
    """Of the diagnosis that the training wrote at its end or, without, of the records now."""
    record, source = read_record(place.starts[-1] / DIAGNOSIS), DIAGNOSIS
    if not isinstance(record.get('verdict'), str) or not isinstance(record.get('status'), str):
        from mmext.analysis.diagnose import diagnose_run  # inside: it needs NumPy

        record = diagnose_run(run).to_record()
        source = RECORDS if run.every == 1 else f'every {run.every}th log line'
    findings = record.get('findings') or [{}]
    first = findings[0] if isinstance(findings, list) and isinstance(findings[0], dict) else {}
    problem = first.get('code') if first.get('severity') in ('severe', 'warning') else None
    return Verdict(record['status'], problem if isinstance(problem, str) else None, record['verdict'], source)


def _ended(place: Place, run: Run) -> str | None:
    """Whether it ended: ``'length'``, ``'stopped'``, or None."""
    reason = read_record(place.starts[-1] / RUN_END).get('reason')
    if run.end is not None:
        return 'stopped' if reason == 'stopped' else 'length'
    if any(fault.get('state_before') for fault in run.faults):
        return 'stopped'
    from mmext.analysis.facts import Facts  # inside: it needs NumPy

    if Facts(run).ended:
        return 'length'
    start = place.starts[-1]
    return 'stopped' if _STOPPED_WORDS in _tail(start / f'{start.name}.log') else None


def _tail(file: Path) -> bytes:
    """The end of a file; empty when it cannot be read."""
    try:
        with file.open('rb') as opened:
            opened.seek(max(opened.seek(0, os.SEEK_END) - _TAIL, 0))
            return opened.read()
    except OSError:
        return b''


# ---- state


def _state(place: Place, digest: Digest) -> tuple[str, str | None]:
    """What has become of a run, and the same in words."""
    if digest.ended:
        return (STOPPED if digest.ended == 'stopped' else FINISHED), digest.end
    quiet = time.time() - max(
        _changed(file) for start in place.starts for file in (start / LOG, start / f'{start.name}.log')
    )
    if quiet < max(_QUIET_SECONDS, _QUIET_ITERATIONS * (digest.seconds or 0.0)):
        return RUNNING, f'running: its log grew {duration(quiet)} ago.'
    if digest.last:
        return BROKEN_OFF, f'broken off, by a crash or a kill: no record of an end, and no log line for {duration(quiet)}.'
    return (UNREADABLE if any(_size(start / LOG) for start in place.starts) else EMPTY), None


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h``, ``5 days``."""
    for unit, length, most in (('s', 1, 120), ('min', 60, 7200), ('h', 3600, 172_800)):
        if seconds < most:
            return f'{max(seconds, 0) / length:.0f} {unit}'
    return f'{seconds / 86_400:.0f} days'


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


# ---- what is kept beside the log


def _key(place: Place) -> dict:
    """What a digest is of: sizes and times of the files that it is read from, and the code that reads them."""
    names = (LOG, 'vis_data/config.py', RUN_END, GROUPS, DIAGNOSIS)
    files = [start / name for start in place.starts for name in names]
    files += sorted(place.work_dir.glob('loss_guard/iter_*.json'))
    stats = {}
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        stats[str(file.relative_to(place.work_dir))] = [stat.st_size, stat.st_mtime_ns]
    return {'code': _code(), 'files': stats}


@cache
def _code() -> int:
    """Check sum of the code that reads and judges: what other code has found is not used."""
    return zlib.crc32(b''.join(Path(__file__).with_name(f'{name}.py').read_bytes() for name in _CODE))


def _cached(place: Place, key: dict, curves: bool) -> Digest | None:
    """The digest kept beside the log; None when there is none, or of other files. The curves are a line of their own."""
    try:
        with (place.starts[-1] / 'vis_data' / CACHE).open('rb') as file:
            record = json.loads(file.readline())
            if record['key'] != key:
                return None
            kept = record['digest']
            verdict = kept['verdict'] and Verdict(**kept['verdict'])
            digest = Digest(**{**kept, 'path': place.work_dir, 'name': place.name, 'verdict': verdict})
            return replace(digest, train=json.loads(file.readline())) if curves else digest
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # none, cut off, or not one of ours
        return None


def _keep(place: Place, key: dict, digest: Digest) -> None:
    record = {**vars(digest), 'path': None, 'train': (), 'verdict': digest.verdict and asdict(digest.verdict)}
    file = place.starts[-1] / 'vis_data' / CACHE
    unfinished = file.with_name(f'{CACHE}.{os.getpid()}')
    try:
        unfinished.write_text(f'{json.dumps({"key": key, "digest": record})}\n{json.dumps(digest.train)}\n')
        unfinished.replace(file)
    except OSError:  # a work_dir that cannot be written to is read anew each time
        unfinished.unlink(missing_ok=True)
