"""A config that trains a run again with the remedies of its diagnosis. No torch."""

import copy
import keyword
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmext.analysis.diagnose import Cause
from mmext.errors import InputError


def remedies_of(findings: Sequence[Cause]) -> dict[str, object]:
    """The settings of all findings that nothing else brings about; of two for one key the first in rank decides."""
    settings: dict[str, object] = {}
    for finding in findings:
        if finding.follows_from is None:
            settings = {**finding.settings, **settings}
    return settings


def child_config(config_file: Path, base: Mapping, findings: Sequence[Cause], name: str) -> str | None:
    """Text of a config that inherits ``config_file`` and changes what the findings say; None when they say nothing.

    Args:
        config_file: what the run dumped.
        base: its settings.
        findings: of the diagnosis.
        name: of the new config, for its work_dir.
    """
    settings = remedies_of(findings)
    if not settings:
        return None
    lines = ['# The run of the config below with the remedies of `mmext diagnose`:']
    for finding in findings:
        if finding.follows_from is None and finding.settings:
            lines.append(f'# {finding.code}: {" ".join(finding.text.split())}')
    lines.append(f'_base_ = {str(config_file.resolve())!r}')
    # the dumped config has the old run's, and its --resume
    lines += [f'work_dir = {f"work_dirs/{name}"!r}', 'resume = False']
    changes: dict[str, object] = {}
    for key, value in settings.items():
        changes = _changed(changes, base, key.split('.'), value)
    return '\n'.join([*lines, *(f'{key} = {_code(value)}' for key, value in changes.items())]) + '\n'


def _changed(changes: Mapping, base: object, path: Sequence[str], value: object) -> dict:
    """``changes`` with a value at a path. A list is replaced whole, as MMEngine does not merge into one; a dict in the place
    of something else replaces it."""
    changes = dict(changes)
    first, *rest = path
    below = base.get(first) if isinstance(base, Mapping) else None
    if not rest:
        changes[first] = value
    elif isinstance(below, list):
        whole = copy.deepcopy(changes.get(first, below))
        _set_in(whole, rest, value)
        changes[first] = whole
    else:
        inner = dict(changes.get(first, {}))
        if isinstance(base, Mapping) and first in base and not isinstance(below, Mapping):
            inner['_delete_'] = True
        changes[first] = _changed(inner, below, rest, value)
    return changes


def _set_in(whole: object, path: Sequence[str], value: object) -> None:
    """Set a value within nested lists and dicts."""
    *way, last = path
    for step in way:
        whole = whole[int(step)] if isinstance(whole, list) else whole.setdefault(step, {})
    whole[int(last) if isinstance(whole, list) else last] = value


def _code(value: object) -> str:
    """A setting as Python."""
    if isinstance(value, Mapping):
        names = all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value)
        if names:
            return 'dict(' + ', '.join(f'{key}={_code(one)}' for key, one in value.items()) + ')'
        return '{' + ', '.join(f'{key!r}: {_code(one)}' for key, one in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(_code, value)) + ']'
    return repr(value)


def write_child_config(path: Path, config_file: Path | None, base: Mapping, findings: Sequence[Cause]) -> bool:
    """Write the config; False when the findings have no remedy that is a config line.

    Raises:
        InputError: the file is there already, or the run has no config that can be read.
    """
    if path.exists():
        raise InputError(f'--write-config: {path} is there already. Give another name.')
    if config_file is None:
        raise InputError('--write-config: the config of the run cannot be read, so nothing can inherit it.')
    text = child_config(config_file, base, findings, path.stem)
    if text is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return True
