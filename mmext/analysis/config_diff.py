"""Where the configs of runs differ, without what says nothing: paths, empty settings, numbers of items. No torch."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mmext.analysis.runs import ORDER, flatten

MISSING = '-'
_LARGEST = 2**63
# hooks that only look: what they are set to changes no result
_WATCHING = (
    'timer',
    'logger',
    'visualization',
    'group_lr',
    'loss_share',
    'run_end',
    'diagnosis',
    'predictions',
    'tensorboard',
)


def by_type(items: list) -> list[str]:
    """Names of a list's items: their types, so that a transform more does not move all others; ``Type#2`` for the second."""
    names, times = [], Counter()
    for place, item in enumerate(items):
        kind = item.get('type') if isinstance(item, dict) else None
        name = kind if isinstance(kind, str) else str(place)
        times[name] += 1
        names.append(name if times[name] == 1 else f'{name}#{times[name]}')
    return names


def comparable(settings: dict) -> dict[str, object]:
    """Dotted key to value of a config: ``param_scheduler.LinearLR.end``; ``param_scheduler (order)`` has the types."""
    watching = tuple(f'default_hooks.{name}.' for name in _WATCHING)
    found = flatten(settings, by_type)
    return {key: _as_json(value) for key, value in found.items() if not key.startswith(watching)}


def _as_json(value: object) -> object:
    """A value as JSON gives it back, so that what was kept of a run and what is read now are alike."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, int) and abs(value) >= _LARGEST:  # Python refuses to write one of thousands of digits
        return hex(value)
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)


def config_differences(configs: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    """Dotted key to its value in each config, for the keys whose values are not all the same; MISSING where absent.

    Args:
        configs: of :func:`comparable`.
    """
    rows = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(key, MISSING) for config in configs]
        if key.endswith(ORDER):
            values = _common(values)
        elif all(value is MISSING or value in ({}, []) for value in values):  # an empty setting is none
            continue
        if any(value != values[0] for value in values):
            rows[key] = values
    return rows


def _common(orders: list) -> list:
    """Orders of the names that all have: an item more is a difference of its own. All the same where one has no list."""
    if any(not isinstance(order, list) for order in orders):
        return [MISSING] * len(orders)
    everywhere = set.intersection(*map(set, orders))
    return [[name for name in order if name in everywhere] for order in orders]
