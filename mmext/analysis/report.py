"""The answer of a diagnosis as lines for people. No torch."""

import textwrap
from collections.abc import Mapping, Sequence

from rich.text import Text

from mmext.analysis.diagnose import HEALTHY, NOT_ENOUGH, Cause, Diagnosis, Experiment

_STYLES = {'severe': 'bold red', 'warning': 'bold yellow', 'information': 'bold cyan'}
_VERDICT_STYLES = {HEALTHY: 'bold green', NOT_ENOUGH: 'bold cyan'}
# in words: what a confidence of at least so much is called
_SURE = ((0.8, 'high'), (0.5, 'medium'), (0.0, 'low'))


def to_lines(diagnosis: Diagnosis, width: int) -> list[Text]:
    """Verdict, where the run stands, findings, and what could not be judged; words are wrapped, lines to paste are not cut.

    Args:
        diagnosis: of a run.
        width: columns of the console.
    """
    worst = diagnosis.findings[0].severity if diagnosis.findings else 'information'
    lines = _wrapped(diagnosis.verdict, width, style=_VERDICT_STYLES.get(diagnosis.status, _STYLES[worst]))
    lines += _wrapped(facts_line(diagnosis.facts), width, style='dim')
    for finding in diagnosis.findings:
        lines += [Text(), *_finding_lines(finding, width)]
    lines += _experiment_lines(diagnosis.experiments, width)
    if diagnosis.not_judged:
        lines += [Text(), Text('Not judged', style='dim')]
        by_reason: dict[str, list[str]] = {}
        for code, why in diagnosis.not_judged.items():
            by_reason.setdefault(why, []).append(code)
        for why, codes in by_reason.items():
            lines += _wrapped(f'{", ".join(codes)}: {why}', width, '  ', '    ', 'dim')
    for remark in diagnosis.remarks:
        lines += [Text(), *_wrapped(remark, width)]
    return lines


def to_text(diagnosis: Diagnosis, width: int = 120) -> str:
    """The same as plain text."""
    return '\n'.join(line.plain for line in to_lines(diagnosis, width)) + '\n'


def _wrapped(words: str, width: int, indent: str = '', hanging: str | None = None, style: str = '') -> list[Text]:
    hanging = indent if hanging is None else hanging
    lines = textwrap.wrap(
        words, width, initial_indent=indent, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    return [Text(line, style=style) for line in lines]


def _finding_lines(finding: Cause, width: int) -> list[Text]:
    head = Text(finding.severity.upper(), style=_STYLES[finding.severity])
    head.append(f'  {finding.code}', style='bold')
    explains = '' if finding.explains is None else f', mending it wins {finding.explains:.3f}'
    head.append(f'  (confidence: {sureness(finding.confidence)}{explains})', style='dim')
    lines = [head, *_wrapped(finding.text, width, '  ')]
    if finding.follows_from:
        lines.append(Text(f'  Follows from {finding.follows_from}: mend that first.'))
    elif finding.remedy:
        advice, *settings = finding.remedy.splitlines()
        lines += _wrapped(f'Remedy: {advice}', width, '  ', '          ')
        lines += [Text(f'          {line}') for line in settings]
    return lines + _wrapped(f'Limit:  {finding.source}', width, '  ', '          ', 'dim')


def _experiment_lines(experiments: Sequence[Experiment], width: int) -> list[Text]:
    """A table of mask IoUs, the tables of what is measured otherwise, the answers in words below."""
    measured = [one for one in experiments if one.gain is not None]
    lines = []
    if measured:
        wide = max(10, *(len(one.name) for one in measured))
        lines += [Text(), Text(f'{"experiment":{wide}}  mask IoU   after    gain  std. error  objects', style='bold')]
        for one in measured:
            ious = f'{one.before:8.3f}  {one.after:6.3f}  {one.gain:+6.3f}  {one.error:10.3f}'
            lines.append(Text(f'{one.name:{wide}}  {ious}  {one.objects:7d}'))
    for one in experiments:
        lines += _table_lines(one)
    for one in experiments:
        lines += _wrapped(f'{one.name}: {one.text}', width, '', '  ', 'dim')
    return lines


def _table_lines(experiment: Experiment) -> list[Text]:
    columns = list(dict.fromkeys(column for row in experiment.table.values() for column in row))
    if not columns:
        return []
    first = max(map(len, (experiment.name, *experiment.table)))
    wide = {column: max(7, len(column)) for column in columns}
    head = '  '.join([f'{experiment.name:{first}}', *(f'{column:>{wide[column]}}' for column in columns)])
    lines = [Text(), Text(head, style='bold')]
    for name, row in experiment.table.items():
        cells = (f'{_cell(row.get(column)):>{wide[column]}}' for column in columns)
        lines.append(Text('  '.join([f'{name:{first}}', *cells])))
    return lines


def sureness(confidence: float) -> str:
    """A confidence in words: high, medium or low."""
    return next(word for limit, word in _SURE if confidence >= limit)


def _cell(value: float | None) -> str:
    return '-' if value is None else f'{value:.3g}'


def facts_line(facts: Mapping[str, object]) -> str:
    """How far a run is and where it stands, in a line."""
    forms = {'mask_loss': 'mask loss {:.3f}', 'mask_share': 'mask share {:.1%}', 'box_ap': 'box AP {:.3f}'}
    forms['mask_ap'] = 'mask AP {:.3f}'
    planned = '' if facts['planned'] is None else f' of {facts["planned"]:.0f}'
    parts = [f'{str(facts["unit"]).capitalize()} {facts["done"]:.0f}{planned}', f'{facts["iterations"]:.0f} iterations']
    parts += [form.format(facts[name]) for name, form in forms.items() if facts[name] is not None]
    return ', '.join(parts) + ('.' if facts['ended'] else ', not ended.')
