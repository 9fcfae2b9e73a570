"""The one error for bad input or configuration, and the wording it shares."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or configuration: says what is wrong with its value, what is allowed, and what to do."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``"Did you mean 'mask_head'? "`` for the known name nearest to ``given``; empty when none is near."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f'Did you mean {near[0]!r}? ' if near else ''


def raise_all(mistakes: list[str]) -> None:
    """Raise one InputError that names every mistake; do nothing when there is none."""
    mistakes = list(dict.fromkeys(mistakes))  # one file may serve two parts
    if mistakes:
        raise InputError(mistakes[0] if len(mistakes) == 1 else '\n'.join(['several mistakes:', *mistakes]))


def some(items: Iterable, limit: int = 5) -> str:
    """First ``limit`` items, comma-separated, and how many more there are."""
    items = [str(item) for item in items]
    more = f' and {len(items) - limit} more' if len(items) > limit else ''
    return ', '.join(items[:limit]) + more
