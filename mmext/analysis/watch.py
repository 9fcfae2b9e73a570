"""Following a training: its diagnosis again whenever the log has grown. No torch."""

import time
from collections.abc import Iterator
from pathlib import Path

from mmext.analysis.diagnose import Diagnosis, diagnose_run, no_run
from mmext.analysis.facts import Facts
from mmext.analysis.runs import read_run

# seconds from one look to the next; a log line is written every few
INTERVAL = 5.0
# looks without a change after the last step, before a run without mmext.RunEndHook counts as over: a validation may follow
_QUIET = 24


def verdicts(work_dir: str | Path) -> Iterator[Diagnosis]:
    """The diagnosis of a run, and again whenever verdict or findings change, until the run ends.

    A run without a log line yet is waited for. One that was killed writes no end: it is followed until the caller stops.

    Raises:
        InputError: there is no such folder.
    """
    work_dir, seen, said, quiet, diagnosis = Path(work_dir), None, None, 0, None
    if not work_dir.is_dir():
        raise no_run(work_dir, 'there is no such folder')
    while True:
        state = _state(work_dir)
        quiet = 0 if state != seen else quiet + 1
        if state != seen and not _starting(work_dir):
            seen, run = state, read_run(work_dir)
            if run.train or run.faults:
                diagnosis = diagnose_run(run)
                now = (diagnosis.status, [(one.code, one.severity, one.follows_from) for one in diagnosis.findings])
                over = run.end is not None or Facts(run).stopped is not None
                if now != said or over:
                    said = now
                    yield diagnosis
                if over:
                    return
        if diagnosis is not None and diagnosis.facts['ended'] and quiet > _QUIET:
            return
        time.sleep(INTERVAL)


def _starting(work_dir: Path) -> bool:
    """Whether the newest start has not logged anything yet: what is there then is of an earlier one."""
    starts = sorted(path for path in work_dir.glob('*/vis_data') if path.is_dir())
    return bool(starts) and not (starts[-1] / 'scalars.json').exists()


def _state(work_dir: Path) -> list[tuple]:
    """Names, sizes and times of all files that a diagnosis reads; one that is renamed meanwhile counts as not there."""
    found = []
    for pattern in ('*/vis_data/scalars.json', '*/run_end.json', 'loss_guard/iter_*.json'):
        for path in sorted(work_dir.glob(pattern)):
            try:
                stat = path.stat()
            except OSError:
                continue
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return found
