"""Go on from a checkpoint: the newest whole one, read safely, with the rates of the config as it is now."""

import re
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import BaseOptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich.table import Table

from mmext.atomic_file import is_whole_checkpoint
from mmext.console import tell
from mmext.errors import InputError
from mmext.model import bare_model
from mmext.optim.optimizer_state import GroupChange, Resumed, resume_by_name
from mmext.registry import HOOKS
from mmext.run_state import restore, validation_is_due
from mmext.safe_load import allow_mmengine_checkpoints


def newest_whole_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and what a person should know of the choice.

    ``last_checkpoint`` in the folder names it. The file of that name in this folder is taken before the place that is
    written there, since folders are moved and copied. When the file cannot be read to its end, the one before it is taken.

    Args:
        work_dir: of the run.

    Returns:
        Path, or None when there is nothing to go on from; lines to log.

    Raises:
        InputError: there are checkpoints, and none of them is whole.
    """
    work_dir = Path(work_dir)
    try:
        written = Path((work_dir / 'last_checkpoint').read_text().strip())
    except (FileNotFoundError, UnicodeDecodeError):
        written = Path()
    if not written.name:
        return _newest_without_pointer(work_dir)
    lines = []
    named = next((path for path in (work_dir / written.name, written) if path.exists()), None)
    if named is None:
        lines.append(f'{written.name}, the last checkpoint of this run, is neither in {work_dir} nor at {written.parent}.')
        named = work_dir / written.name
    elif is_whole_checkpoint(named):
        if named != written:
            lines.append(f'last_checkpoint says {written}; the file of this name in {work_dir} is taken.')
        return named, lines
    else:
        lines.append(f'{named} is damaged: it cannot be read to its end.')
    for path in _before(named):
        if is_whole_checkpoint(path):
            return path, [*lines, f'The one before it is taken: {path}.']
        lines.append(f'{path} is damaged: it cannot be read to its end.')
    raise InputError('\n'.join([*lines, f'No other checkpoint is left in {named.parent}. Start without --resume.']))


def _newest_without_pointer(work_dir: Path) -> tuple[Path | None, list[str]]:
    """A run that was killed between its first checkpoint and the file that names it: the last one written."""
    files = [path for path in work_dir.glob('*.pth') if re.fullmatch(r'(epoch|iter)_\d+\.pth', path.name)]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        if is_whole_checkpoint(path):
            return path, [f'last_checkpoint is missing or empty: {path.name}, the last one written, is taken.']
    return None, []


def _before(named: Path) -> list[Path]:
    """Files with a lower number than ``named`` has in its name, highest first: ``epoch_11.pth`` for ``epoch_12.pth``."""
    match = re.fullmatch(r'(.*?)(\d+)(\D*)', named.name)
    if not match:
        return []
    start, number, end = match.groups()
    numbered = {
        int(found[1]): path
        for path in named.parent.glob(f'{start}*{end}')
        if (found := re.fullmatch(f'{re.escape(start)}(\\d+){re.escape(end)}', path.name))
    }
    return [numbered[step] for step in sorted(numbered, reverse=True) if step < int(number)]


def rate_table(rows: Sequence[GroupChange]) -> Table:
    """Rates old and new of each group, with the tensors whose momentum is kept."""
    table = Table(title='Resumed optimizer', title_justify='left')
    table.add_column('group')
    for heading in ('old rate', 'new rate', 'tensors', 'state kept'):
        table.add_column(heading, justify='right')
    for row in rows:
        old = 'none' if row.old is None else '-'.join(f'{rate:.3e}' for rate in dict.fromkeys(row.old))
        table.add_row(row.name, old, f'{row.new:.3e}', str(row.tensors), str(row.kept))
    return table


@HOOKS.register_module()
class ResumeHook(Hook):
    """Make ``--resume`` lose nothing: ``default_hooks = dict(resume=dict(type='mmext.ResumeHook'))``.

    - Checkpoints of MMEngine are read on torch ≥ 2.6 with ``weights_only=True`` (``load_from``, ``--resume``, ``mim test``).
    - Of several files the newest whole one is taken; a damaged one never, and the log says so.
    - Momentum and moments are found by parameter name, whatever the groups, from our checkpoints and from stock
      MMDetection's. Rates are those of the config now: base rate × multiplier × the schedule's factor at that step, so that
      new multipliers, a new base rate and a new ``max_epochs`` take effect.
    - Order of the data, random numbers, early stopping and plateau go on where they were, and a validation that the run
      did not live to see is done first. From a checkpoint of ``mmext.SafeCheckpointHook`` an epoch-based run on the CPU
      with ``num_workers=0`` or non-persistent workers equals one that was never stopped, bit for bit.

    Raises:
        InputError: the file to resume from is damaged or missing; nothing to resume although the config has a
            ``load_from`` (MMDetection's ``--resume`` would drop it without a word); the parameters of an optimizer without
            names cannot be told.
    """

    priority = 'LOWEST'  # before_train: random numbers are set when no other hook is left to draw from them

    def __init__(self):
        self._state: dict | None = None
        self._resumed: Resumed | None = None
        self._between_epochs = True

    def before_run(self, runner) -> None:
        allow_mmengine_checkpoints()
        if not isinstance(runner, Runner) or not runner._resume:
            return
        # the first process decides for all, and all of them get its error
        decision = [_decide(runner) if is_main_process() else None]
        broadcast_object_list(decision)
        path, lines, error = decision[0]
        if error:
            raise InputError(error)
        for line in lines:
            runner.logger.warning(line)
        runner._load_from = path
        if not isinstance(runner.optim_wrapper, BaseOptimWrapper):
            runner._resume = False  # a test or validation needs the weights alone

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        # MMEngine's resume would run this text as Python; its own checkpoints have none (theirs is under 'cfg')
        if isinstance(checkpoint.get('meta'), dict) and checkpoint['meta'].pop('config', None) is not None:
            runner.logger.warning("The checkpoint's meta.config is Python code, and was not run.")
        if not isinstance(runner, Runner) or not runner._resume:
            return
        missing = [key for key in ('meta', 'message_hub', 'state_dict') if key not in checkpoint]
        if missing:
            raise InputError(
                f'resume from {runner._load_from}: the file has no {missing[0]!r}: it holds weights, not a run. '
                'Start from the weights: load_from=FILE, without --resume.'
            )
        if isinstance(runner.optim_wrapper, OptimWrapperDict) or isinstance(runner.param_schedulers, dict):
            runner.logger.warning('Several optimizers: resumed as MMEngine does it, by position and with the old rates.')
            return
        iterations = _other_iteration(runner, checkpoint['meta'])
        schedulers = runner.param_schedulers or []
        self._resumed = resume_by_name(
            checkpoint, bare_model(runner), runner.optim_wrapper, schedulers, iterations, runner.cfg.pretty_text
        )
        self._between_epochs = iterations is None
        if iterations is not None:
            checkpoint['meta']['iter'] = iterations
        self._state = checkpoint.get('mmext')

    def before_train(self, runner) -> None:
        resumed, self._resumed = self._resumed, None
        state, self._state = self._state, None
        if resumed is None:
            return
        lines = list(resumed.lines)
        if state is not None:
            lines += restore(runner, state)
        if is_main_process():
            kept, tensors = sum(row.kept for row in resumed.rows), sum(row.tensors for row in resumed.rows)
            rates = 'rates of the config as it is now' if resumed.changed else 'rates as they were'
            lines.insert(0, f'Optimizer state found by name: {kept} of {tensors} tensors; {rates}.')
            tell(runner.logger, rate_table(resumed.rows) if resumed.changed else None, lines)
        if state is not None and self._between_epochs and not state['validated'] and validation_is_due(runner.train_loop):
            runner.logger.info('The last epoch has not been validated: it is done now.')
            runner.val_loop.run()


def _decide(runner) -> tuple[str | None, list[str], str | None]:
    """Path to resume from, lines to log, or the words of an error."""
    try:
        return *_choose(runner), None
    except Exception as error:  # whatever it is, the other processes wait for the answer
        return None, [], str(error) if isinstance(error, InputError) else f'--resume: {type(error).__name__}: {error}'


def _choose(runner) -> tuple[str | None, list[str]]:
    asked = runner._load_from
    if asked is not None:
        if Path(asked).exists() and not is_whole_checkpoint(asked):
            raise InputError(
                f'resume from {asked}: the file is damaged, it cannot be read to its end. '
                'Use --resume without a file: it takes the newest whole checkpoint of the work_dir.'
            )
        return asked, []
    path, lines = newest_whole_checkpoint(runner.work_dir)
    if path is not None:
        return str(path), lines
    written = _load_from_of_the_file(runner.cfg.filename)
    if written:
        raise InputError(
            f'--resume: there is no checkpoint in {runner.work_dir} to go on from, and MMDetection drops load_from with '
            f'--resume, so this run would begin without {written}. Start it without --resume.'
        )
    return None, [*lines, f'There is no checkpoint in {runner.work_dir} to go on from: training starts at the beginning.']


def _other_iteration(runner, meta: dict) -> int | None:
    """Iteration at which the next epoch begins, when another batch size or number of processes has moved it; else None."""
    loop = runner.train_loop
    if not isinstance(loop, EpochBasedTrainLoop) or meta['iter'] == meta['epoch'] * len(loop.dataloader):
        return None
    iteration = meta['epoch'] * len(loop.dataloader)
    runner.logger.warning(
        f'The checkpoint is at iteration {meta["iter"]}. {meta["epoch"]} epochs of {len(loop.dataloader)} iterations, as '
        f'they are now, are {iteration}: the run goes on there, at the beginning of an epoch, and its schedule too.'
    )
    return iteration


def _load_from_of_the_file(config: str | None) -> str | None:
    return Config.fromfile(config).get('load_from') if config and Path(config).is_file() else None
