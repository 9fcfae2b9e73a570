"""What ``mmext check`` answers: all findings of a config and its data, worst first, and the tables behind them."""

import contextlib
import json
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmext.analysis.findings import SEVERITIES, Finding, is_problem, to_record, worst_first
from mmext.check.ceiling import Ceiling, ceiling
from mmext.check.instances import class_names
from mmext.check.ledger import Ledger, ledger
from mmext.check.parts import DataPart, data_parts
from mmext.check.settings import check_settings
from mmext.check.sizes import Sizes, check_sizes
from mmext.check.traps import check_traps
from mmext.console import console
from mmext.data.file_checks import check_file
from mmext.data.image_checks import check_images, check_same_images
from mmext.data.mask_checks import check_masks
from mmext.data.sheets import write_sheets
from mmext.data.split_checks import check_split
from mmext.errors import InputError
from mmext.model import build_model
from mmext.optim.group_report import load_config

SCHEMA_VERSION = 1
_STYLES = {'severe': 'bold red', 'warning': 'bold yellow', 'information': 'bold cyan'}

# what a ledger counts, and the findings about the file that name its cause
_NO_OUTLINE = ('mask-missing', 'mask-empty', 'mask-of-unknown-form', 'polygon-too-few-points', 'polygon-odd-coordinates')
_NO_OUTLINE += ('polygon-coordinates-unusable', 'rle-counts-wrong', 'rle-size-not-image')
_SAID_BY = {
    'no-mask': _NO_OUTLINE,
    'outline-ignored': _NO_OUTLINE,
    'box-too-small': ('box-empty', 'box-negative', 'area-not-positive'),
    'box-outside-image': ('box-empty', 'box-negative', 'box-outside-image'),
    'class-not-in-config': ('class-not-in-config',),
    'class-without-objects': ('class-not-in-file',),
}
_QUOTED = re.compile("'([^']*)'")

Progress = Callable[[str, int, int], None]


@dataclass
class CheckReport:
    """The answer of ``mmext check``. ``findings`` worst first; ``images`` how many could be read of a part; ``remarks`` what
    was not looked at, and why; ``crashes`` the traceback of each check that failed by a fault of ours, so that it hides none
    of the others."""

    config: str
    findings: list[Finding] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    sizes: list[Sizes] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    sheets: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    @property
    def problem(self) -> bool:
        return is_problem(self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Findings by severity."""
        return {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}

    @property
    def verdict(self) -> str:
        """One line."""
        severe, warnings, notes = self.counts.values()
        remarks = f', {_number(notes, "remark")}' if notes else ''
        if not severe and not warnings:
            return f'No problem found{remarks}: {self.config}'
        found = [_number(severe, 'severe finding')] if severe else []
        return f'{", ".join([*found, *([_number(warnings, "warning")] if warnings else [])])}{remarks}: {self.config}'

    def print(self) -> None:
        """To standard output: the verdict, the findings, the tables."""
        out = console()
        out.print(Text(self.verdict, style=next((_STYLES[s] for s, n in self.counts.items() if n), 'bold green')))
        for finding in self.findings:
            out.print()
            _print_finding(out, finding)
        whole = [ledger for ledger in self.ledgers if ledger.reaching == ledger.total]
        for answer in (*(one for one in self.ledgers if one not in whole), *self.ceilings, *self.sizes):
            _print_table(out, answer.table())
        # a table of one row says less than a line
        lines = [_all_used(one) for one in whole]
        lines += [line for one in whole for line in one.not_counted]
        lines += [*dict.fromkeys(self.remarks), *(f'Wrote {path}' for path in self.sheets)]
        for number, line in enumerate(lines):
            if not number:
                out.print()
            _print_line(out, line)

    def to_record(self) -> dict:
        """For JSON: docs/check.md has the schema."""

        def facts(answers: Sequence) -> list[dict]:
            # their findings are among the findings of the whole
            return [{key: value for key, value in a.to_record().items() if key != 'findings'} for a in answers]

        return {
            'schema_version': SCHEMA_VERSION,
            'config': self.config,
            'verdict': self.verdict,
            'counts': self.counts,
            'findings': to_record(self.findings),
            'ledger': facts(self.ledgers),
            'ceiling': facts(self.ceilings),
            'sizes': facts(self.sizes),
            'images': self.images,
            'sheets': [str(path) for path in self.sheets],
            'remarks': list(dict.fromkeys(self.remarks)),
            'crashes': self.crashes,
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_record(), indent=2) + '\n', encoding='utf-8')


def _number(count: int, noun: str) -> str:
    return f'{count} {noun}' + ('s' if count != 1 else '')


def _all_used(ledger: Ledger) -> str:
    left_out = ledger.images - ledger.images_kept
    more = f'; {left_out:,} images have none and are left out' if left_out else ''
    return f'{ledger.part}: all {ledger.total:,} annotations of {ledger.images:,} images are used{more}.'


def _print_line(out: Console, line: str, indent: str = '', hanging: str | None = None, style: str = '') -> None:
    """A line of words, wrapped at the console's width without trailing blanks; names and numbers are not cut."""
    hanging = indent if hanging is None else hanging
    text = textwrap.fill(
        line, out.width, initial_indent=indent, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    out.print(Text(text, style=style), soft_wrap=True)


def _print_finding(out: Console, finding: Finding) -> None:
    head = Text(finding.severity.upper(), style=_STYLES[finding.severity])
    head.append(f'  {finding.code}', style='bold')
    head.append(f'  ({finding.where})' if finding.where else '', style='dim')
    out.print(head)
    _print_line(out, finding.text, '  ')
    for example in finding.examples:
        _print_line(out, f'- {example}', '    ', '      ', 'dim')
    if finding.count > len(finding.examples) > 0:
        _print_line(out, f'... {finding.count - len(finding.examples):,} more', '    ', style='dim')
    for number, line in enumerate((finding.remedy or '').splitlines()):
        out.print(Text('          ' if number else '  Remedy: ').append(line), soft_wrap=True)  # not cut: to paste


def _print_table(out: Console, table: Table | None) -> None:
    """A table under its title; rich would wrap a title that is wider than its table."""
    if table is None:
        return
    out.print()
    title, caption, table.title, table.caption = table.title, table.caption, None, None
    if title:
        _print_line(out, str(title), style='bold')
    out.print(table)
    for line in str(caption or '').splitlines():
        _print_line(out, line)
    table.title, table.caption = title, caption


def not_said(findings: Sequence[Finding], said: Sequence[Finding]) -> list[Finding]:
    """The findings of a ledger without those whose cause a check of the file has named, as gravely and of as many.

    Args:
        findings: of the ledger.
        said: of the checks of file and masks.
    """

    def is_said(finding: Finding) -> bool:
        same = [
            other
            for other in said
            if other.code in _SAID_BY.get(finding.code, ())
            and other.where == finding.where
            and SEVERITIES.index(other.severity) <= SEVERITIES.index(finding.severity)
        ]
        if finding.code == 'class-without-objects':  # one finding a class, which it names first
            return any(_QUOTED.findall(other.text)[:1] == _QUOTED.findall(finding.text)[:1] for other in same)
        return sum(other.count for other in same) >= finding.count

    return [finding for finding in findings if not is_said(finding)]


def left_out_on_purpose(findings: Sequence[Finding], cfg: Config) -> list[Finding]:
    """The findings, those of categories that the config leaves out as information where it switches class_check off."""
    hooks = cfg.get('default_hooks') or {}
    hook = hooks.get('class_check', 'not set')  # a config that never had it says nothing
    kind = hook.get('type') if isinstance(hook, Mapping) else None
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    if hook is not None and name.split('.')[-1] != 'NoHook':
        return list(findings)
    meant = {'severity': 'information', 'remedy': 'Nothing when it is meant, as the config switches class_check off.'}
    return [replace(finding, **meant) if finding.code == 'class-not-in-config' else finding for finding in findings]


class _Check:
    """Runs the checks one after the other; what one of them cannot do stops none of the others."""

    def __init__(self, report: CheckReport):
        self.report = report

    def run(self, what: str, function: Callable, *arguments, where: str = 'config', **settings):
        """The function's answer, or None: an InputError becomes a severe finding, another exception a crash of ours."""
        try:
            return function(*arguments, **settings)
        except InputError as error:
            self.report.findings.append(
                Finding(code='check-impossible', severity='severe', text=f'{what}: {error}', where=where)
            )
        except Exception:
            self.report.crashes.append(f'{what}\n{traceback.format_exc()}')
            self.report.remarks.append(f'{what}: not checked: a defect of mmext, see the lines on standard error.')
        return None


def check(
    config: str,
    cfg_options: Sequence[str] = (),
    images: bool = False,
    show: Path | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Hold a config and its annotation files against all that is known to spoil a training.

    Args:
        config: a config file or a recipe's name.
        cfg_options: ``KEY=VALUE`` strings.
        images: open the images too.
        show: folder for contact sheets of the ground truth.
        progress: called with (what, done, all).

    Raises:
        InputError: the config cannot be read, names no COCO data set, or none of its files can be used.
    """
    with contextlib.redirect_stdout(sys.stderr):  # MMEngine prints; standard output is for the answer
        return _check(config, load_config(config, cfg_options), images, show, progress)


def _check(config: str, cfg: Config, images: bool, show: Path | None, progress: Progress | None) -> CheckReport:
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    parts = data_parts(cfg)
    if not parts:
        raise InputError(f'{config}: neither train_dataloader nor val_dataloader has a data set with an ann_file to check.')
    report = CheckReport(config)
    checks = _Check(report)
    parts = _read(parts, report)

    def counting(what: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    usable = [part for part in parts if part.coco is not None]
    for part in usable:
        report.findings += checks.run('masks', check_masks, part.coco, part.name, where=part.name) or []
    pairs = _pairs(usable)
    for train, val in pairs:
        report.findings += checks.run('train and val', check_split, train.coco, val.coco, (train.folder, val.folder)) or []
    kept = {}
    for part in usable:
        found = checks.run('ledger', ledger, part, cfg, where=part.name)
        if found is not None:
            if part.name == 'train':
                kept[part.ann_file] = found.images_kept
            report.ledgers.append(found)
            report.findings += not_said(found.findings, report.findings)
    model = None
    if cfg.get('model'):
        model = checks.run('model', build_model, cfg)
        for part in usable:
            found = checks.run('sizes', check_sizes, part, cfg, cfg.model, where=part.name)
            if found is not None:
                report.sizes.append(found)
                report.findings += found.findings
                report.remarks += found.lines
    else:
        report.remarks.append('The config has no model: anchors, mask grid, rates and weights were not checked.')
    report.findings += checks.run('traps', check_traps, usable, cfg) or []
    report.findings += checks.run('settings', check_settings, cfg, parts, model, kept) or []
    for part in usable:
        if part.name != 'train' or not cfg.get('model'):
            continue
        found = checks.run('resolution ceiling', ceiling, part, cfg, progress=counting('masks on the grid'), where=part.name)
        if found is not None:
            report.ceilings.append(found)
            report.findings += found.findings
            report.remarks += found.lines
    if images:
        _look(usable, pairs, checks, counting)
    if show is not None:
        for part in usable:
            sheets = checks.run(
                'sheets', write_sheets, part.coco, part.folder, show / part.name, counting(f'sheets of {part.name}')
            )
            report.sheets += sheets or []
    report.findings = worst_first(left_out_on_purpose(report.findings, cfg))
    return report


def _read(parts: Sequence[DataPart], report: CheckReport) -> list[DataPart]:
    """The parts with their files read; raises when none can be used."""
    read, unusable = [], []
    for part in parts:
        try:
            coco, findings = check_file(part.ann_file, part.folder, part.name, _classes(part))
        except InputError as error:
            unusable.append(str(error))
            report.findings.append(
                Finding(code='annotation-file-unusable', severity='severe', text=str(error), where=part.name)
            )
            read.append(part)
        else:
            report.findings += findings
            read.append(replace(part, coco=coco))
    if all(part.coco is None for part in read):
        raise InputError('\n'.join(unusable) or f'{parts[0].ann_file}: no entry of it can be used.')
    return read


def _classes(part: DataPart) -> Sequence[str] | None:
    try:
        return class_names(part)
    except InputError:  # a text in the place of a list: the check of the file says so; an unknown data set: the ledger does
        return (part.dataset.get('metainfo') or {}).get('classes')


def _pairs(parts: Sequence[DataPart]) -> list[tuple[DataPart, DataPart]]:
    train, val = ([part for part in parts if part.name == name] for name in ('train', 'val'))
    return [(one, other) for one in train for other in val]


def _look(parts: Sequence[DataPart], pairs: Sequence, checks: _Check, counting: Callable) -> None:
    report, seen = checks.report, {}
    for part in parts:
        found = checks.run(
            'images',
            check_images,
            part.coco,
            part.folder,
            part.name,
            counting(f'images of {part.name}'),
            part.loading,
            where=part.name,
        )
        if found is not None:
            report.findings += found[0]
            seen[part.ann_file] = found[1]
            report.images[part.name] = report.images.get(part.name, 0) + len(found[1])
    if len(seen) == len(parts):  # what the names only suggest, the pictures have answered
        report.findings = [f for f in report.findings if f.code != 'image-name-in-train-and-val']
    for train, val in pairs:
        if train.ann_file in seen and val.ann_file in seen:
            report.findings += (
                checks.run('images of train and val', check_same_images, seen[train.ann_file], seen[val.ann_file]) or []
            )
