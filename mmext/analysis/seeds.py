"""Runs that differ in their seed only: one setting, with a mean and a spread. No torch."""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmext.analysis.digest import FINISHED, STOPPED, Digest

_SEED = 'randomness.seed'


@dataclass(frozen=True)
class Setting:
    """``runs``: places of the runs with one config, whose ``seeds`` differ; None where the config sets none."""

    name: str
    runs: tuple[int, ...]
    seeds: tuple[object, ...]


def settings_of(runs: Sequence[Digest]) -> list[Setting]:
    """The settings among runs that have ended; none unless one of them has several seeds.

    Of several runs with the same config and seed the last counts: they are no further sample.
    """
    found: dict[str, dict[object, int]] = {}
    for place, run in enumerate(runs):
        if run.state in (FINISHED, STOPPED) and run.config:
            rest = {key: value for key, value in run.config.items() if key != _SEED}
            seed = run.config.get(_SEED)
            # without a seed MMEngine draws one: each run is another
            found.setdefault(json.dumps(rest, sort_keys=True), {})[('drawn', place) if seed is None else repr(seed)] = place
    settings = [
        Setting(_name([runs[i].name for i in by_seed.values()]), tuple(by_seed.values()), _seeds(runs, by_seed.values()))
        for by_seed in found.values()
    ]
    return settings if any(len(one.runs) > 1 for one in settings) else []


def mean_and_spread(values: Sequence[object]) -> tuple[float, float | None] | None:
    """Mean and standard deviation (n − 1; None of a single value) of the numbers among values; None without any."""
    numbers = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    if not numbers:
        return None
    mean = sum(numbers) / len(numbers)
    spread = math.sqrt(sum((one - mean) ** 2 for one in numbers) / (len(numbers) - 1)) if len(numbers) > 1 else None
    return mean, spread


def paired(first: Setting, second: Setting, rows: Sequence[Mapping], column: str) -> tuple[list[float], list[float]]:
    """A column's values of two settings, for the seeds that both have, where both have a number."""
    theirs = dict(zip(second.seeds, second.runs, strict=True))
    pairs = [
        (rows[mine][column], rows[theirs[seed]][column])
        for seed, mine in zip(first.seeds, first.runs, strict=True)
        if seed is not None and seed in theirs
    ]
    pairs = [pair for pair in pairs if all(isinstance(one, (int, float)) and math.isfinite(one) for one in pair)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _seeds(runs: Sequence[Digest], places) -> tuple[object, ...]:
    return tuple(runs[place].config.get(_SEED) for place in places)


def _name(names: list[str]) -> str:
    """What the names have in common: ``uniform`` of ``uniform-seed0`` and ``uniform-seed1``; a single one stays as it is."""
    if len(names) == 1:
        return names[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = ''.join(letters[0] for letters in same)
    return re.sub(r'[-_.@]*(seed[-_=]*\d*)?[-_.@]*$', '', common) or names[0]
