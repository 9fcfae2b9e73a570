"""Where words go: tables and lines for people to the console, the same in plain text to the run's log file."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

# a pipe has no width; 80, rich's default there, would cut our tables
_WIDTH_WITHOUT_TERMINAL = 120


def console() -> Console:
    """Console on standard output, wide enough when it is a pipe or a file."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error while the block runs, none where that is no terminal; gives a function of (what, done, all)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    out = Console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bars:
        tasks = {}

        def count(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield count


def plain(table: Table) -> str:
    """A table as plain ASCII lines."""
    text, usual = io.StringIO(), table.box
    table.box = box.ASCII
    Console(file=text, width=_WIDTH_WITHOUT_TERMINAL, force_terminal=False).print(table)
    table.box = usual
    return '\n'.join(line.rstrip() for line in text.getvalue().splitlines())


def tell(logger: logging.Logger, table: Table | None, lines: list[str]) -> None:
    """Print a table and lines on the console and write them, plain, to the logger's files, once each."""
    out = console()
    if table is not None:
        out.print(table)
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    if not files:
        return
    text = '\n'.join(([plain(table)] if table is not None else []) + lines)
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, '\n' + text, (), None)
    for handler in files:
        handler.handle(record)
