"""Runs as one HTML file that opens from the disk, without a network. No torch.

plotly.js draws; it, our style and our script stand in the file. Whatever comes from a run (names, config values, paths) is
escaped, and the page allows no script but those two, by their hashes.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from mmext import __version__
from mmext.analysis.compare import Comparison, compare, finite
from mmext.analysis.compare_report import Sheet, noise_lines, progress_of, sheets
from mmext.analysis.diagnose import HEALTHY, NOT_ENOUGH, Cause, Diagnosis, Experiment
from mmext.analysis.digest import DIAGNOSIS, FINISHED, RECORDS, Digest
from mmext.analysis.remedies import words
from mmext.analysis.report import facts_line, sureness
from mmext.errors import InputError
from mmext.page.panels import LOG, MOST_RUNS, TRAIN, Panel, Section, log_ticks, sections, words_of
from mmext.page.worst_images import SCORE, Album, worst_images

# Okabe and Ito's, told apart by the colour-blind, without yellow and black, which do not show on white or dark; then dashes
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#7F7F7F')
DASHES = ('solid', 'dash', 'dot', 'dashdot')
_SYMBOLS = ('circle', 'square', 'diamond', 'triangle-up')
_STATUS_WORDS = {HEALTHY: 'nothing wrong in the records', NOT_ENOUGH: 'not enough evidence'}
_OUTLINES = (
    ('found', 'object, found'),
    ('missed', 'object, missed'),
    ('matched', f'detection (score {SCORE} or more), matches an object'),
    ('false', 'detection, matches none'),
)
# so many runs have a line each on how they ended, of more only those that did not end as planned
_END_CARDS = 6
# letters of a name that are shown at most: a folder may be called anything
_LONGEST_NAME = 80
# and so many letters that all names begin with are left out where there is little room
_LONG_BEGINNING = 8


@dataclass(frozen=True)
class Page:
    """What a page is made from. ``figures``: of the comparison's readable runs; ``diagnosis``: when it is of one run;
    ``album``: the worst images."""

    comparison: Comparison
    figures: Sequence[Section]
    album: Album
    diagnosis: Diagnosis | None = None

    @property
    def runs(self) -> tuple[Digest, ...]:
        return self.comparison.readable[:MOST_RUNS]


def page_of(comparison: Comparison, diagnosis: Diagnosis | None = None) -> Page:
    """The page of runs that were read with their curves."""
    runs = comparison.readable[:MOST_RUNS]
    return Page(comparison, sections(runs), worst_images(runs), diagnosis)


def page_of_run(work_dir: str | Path, diagnosis: Diagnosis) -> Page:
    """The page of the newest run in a work_dir, which is the one that was diagnosed."""
    found = compare([work_dir], curves=True)
    return page_of(replace(found, runs=found.runs[-1:], rows=found.rows[-1:], differences={}), diagnosis)


def to_html(page: Page) -> str:
    """The page as the text of its file.

    Raises:
        InputError: plotly or Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError(f"--html needs {error.name}, which is not installed: pip install 'mmext[report]'.") from None
    here = files('mmext.page')
    environment = Environment(
        loader=PackageLoader('mmext', 'page'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [text.replace('\r', '') for text in (get_plotlyjs(), (here / 'page.js').read_text(encoding='utf-8'))]
    return environment.get_template('page.html').render(
        **_context(page),
        css=Markup((here / 'page.css').read_text(encoding='utf-8')),
        plotly=Markup(scripts[0]),
        script=Markup(scripts[1]),
        script_hashes=Markup(' '.join(map(_hash, scripts))),
        data=Markup(_embedded(_data(page))),
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _embedded(value: object) -> str:
    """JSON for a script element: nothing in it ends the element."""
    text = json.dumps(finite(value), separators=(',', ':'), allow_nan=False)
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


# ---- what the template shows


def _context(page: Page) -> dict:
    comparison, runs = page.comparison, page.runs
    tables = sheets(comparison)[1:] if runs else []  # the first is of states and verdicts, which the cards have
    differences = tables.pop() if comparison.differences else None
    contents = [('verdict', 'Verdict') if page.diagnosis else ('runs', 'Runs')]
    contents += [('results', 'Results')] if tables else []
    contents += [(section.key, section.title.partition(':')[0]) for section in page.figures]
    contents += [('config', 'Config')] if len(runs) > 1 else []
    contents += [('images', 'Worst images')] if runs else []
    number = len(comparison.readable)
    return {
        'title': f'Diagnosis of {runs[0].name}' if page.diagnosis and runs else _title(runs),
        'subtitle': _subtitle(comparison),
        'version': __version__,
        'made': datetime.now().strftime('%Y-%m-%d %H:%M'),
        'contents': contents,
        'runs': [_card(run, len(runs) <= _END_CARDS) for run in runs],
        'labels': _labels([run.name for run in runs]),
        'places': {run.name: place for place, run in enumerate(runs)},
        'unreadable': [run for run in comparison.runs if not run.readable],
        'left_out': number > MOST_RUNS and f'The first {MOST_RUNS} of {number} runs have curves; the tables have all.',
        'diagnosis': page.diagnosis and _diagnosis(page.diagnosis),
        'noise': noise_lines(comparison),
        'tables': tables,
        'differences': differences,
        'sections': [_section(section, runs) for section in page.figures],
        'pictures': page.album,
        'outline_kinds': _OUTLINES,
        'colour': lambda place: PALETTE[place % len(PALETTE)],
        'dash': lambda place: DASHES[place // len(PALETTE) % len(DASHES)],
        'words_of': words_of,
    }


def _title(runs: Sequence[Digest]) -> str:
    if not 0 < len(runs) <= 3:
        return f'{len(runs)} runs compared'
    return ' · '.join(run.name for run in runs)


def _subtitle(comparison: Comparison) -> str:
    number, folders = len(comparison.readable), dict.fromkeys(str(run.path.parent) for run in comparison.runs)
    return f'{number} run{"s" if number != 1 else ""} in {", ".join(folders)}'


def _card(run: Digest, few: bool) -> dict:
    verdict = run.verdict
    facts = [f'{progress_of(run)} {run.unit}s' if run.unit == 'epoch' else progress_of(run)]
    facts += [f'{len(run.val)} validation{"s" if len(run.val) != 1 else ""}']
    facts += [f'{run.seconds:.3g} s an iteration'] if run.seconds is not None else []
    facts += [f'{run.memory / 1024:.2f} GB'] if run.memory is not None else []
    said = verdict and verdict.text.replace(' below', '')  # the findings are not on this card
    if verdict and verdict.source not in (DIAGNOSIS, RECORDS):
        said = f'{said} (By {verdict.source}.)'
    remarks = [run.end] if run.end and (few or run.state != FINISHED) else []
    remarks += [f'Started again without logging a training step: {", ".join(run.idle)}.'] if run.idle else []
    return {
        'name': run.name,
        'state': run.state,
        'state_class': 'finished' if run.state == FINISHED else 'information',
        'status': verdict and verdict.status,
        'status_words': verdict and (_STATUS_WORDS.get(verdict.status) or verdict.code or verdict.status),
        'verdict': said,
        'facts': ' · '.join(facts),
        'costs': ' · '.join(facts[2:]),
        'remarks': [*remarks, *([run.problem] if run.problem else [])],
    }


def _section(section: Section, runs: Sequence[Digest]) -> dict:
    stacked = any(panel.stacked for panel in section.panels)
    return {
        'key': section.key,
        'title': section.title,
        'note': section.note,
        'legend': section.legend,
        'legend_kind': lambda place: 'area' if stacked else DASHES[place % len(DASHES)],
        'panels': [
            {'key': panel.key, 'title': panel.title, 'run': panel.run, 'summary': _summary(panel, runs)}
            for panel in section.panels
        ],
    }


def _summary(panel: Panel, runs: Sequence[Digest]) -> str:
    """A panel in words, for people who do not see it: where its lines end."""
    ends, both = [], len({line.kind for line in panel.lines}) > 1
    for line in panel.lines:
        last = next(((x, y) for x, y in zip(reversed(line.x), reversed(line.y), strict=True) if y is not None), None)
        name = words_of(line.name) if panel.run is not None else runs[line.run].name
        kind = ' in validation' if both and line.kind != TRAIN else ''
        ends.append(f'{name}{kind} no number' if last is None else f'{name}{kind} {last[1]:.3g} at iteration {last[0]:g}')
    what = panel.title if panel.unit == panel.title else f'{panel.title}, {panel.unit}'
    return f'{what} over iterations. Last: {"; ".join(ends)}.'


# ---- what the script draws


def _data(page: Page) -> dict:
    lasts = [line.x[-1] for section in page.figures for panel in section.panels for line in panel.lines if line.x]
    return {
        'runs': _labels([run.name for run in page.runs]),
        'palette': PALETTE,
        'dashes': DASHES,
        'symbols': _SYMBOLS,
        'last': max(lasts, default=1),
        'sections': [
            {'key': section.key, 'panels': [_panel_data(panel, section) for panel in section.panels]}
            for section in page.figures
        ],
    }


def _panel_data(panel: Panel, section: Section) -> dict:
    values = [y for line in panel.lines for y in line.y if y]
    return {
        'key': panel.key,
        'unit': panel.unit,
        'scale': panel.scale,
        'run': panel.run,
        'stacked': panel.stacked,
        'smooth': section.key == 'losses',
        'band': panel.band,
        'marks': panel.marks,
        'ticks': list((log_ticks(panel) if panel.scale == LOG else {}).items()),
        'lines': [
            {
                'run': line.run,
                'words': words_of(line.name),
                'colour': section.legend.index(line.name) if line.name in section.legend else 0,
                'kind': line.kind,
                'x': line.x,
                'y': line.y,
                'broken': line.broken,
                'floor': min(values, default=0),
            }
            for line in panel.lines
        ],
    }


def _labels(names: Sequence[str]) -> list[str]:
    """Names for where there is little room: without a long beginning that all have, and not longer than a line."""
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = ''.join(letters[0] for letters in alike) if len(names) > 1 else ''
    common = common[: max(common.rfind(mark) for mark in '-_/ .') + 1]
    names = [f'…{name[len(common) :]}' if len(common) >= _LONG_BEGINNING else name for name in names]
    return [name if len(name) <= _LONGEST_NAME else f'{name[: _LONGEST_NAME - 1]}…' for name in names]


# ---- a diagnosis


def _diagnosis(diagnosis: Diagnosis) -> dict:
    by_reason: dict[str, list[str]] = {}
    for code, why in diagnosis.not_judged.items():
        by_reason.setdefault(why, []).append(code)
    worst = diagnosis.findings[0].severity if diagnosis.findings else 'information'
    return {
        'verdict': diagnosis.verdict,
        'tone': {HEALTHY: 'healthy', NOT_ENOUGH: 'information'}.get(diagnosis.status, worst),
        'facts': facts_line(diagnosis.facts),
        'findings': [_finding(finding) for finding in diagnosis.findings],
        'experiments': [one for one in diagnosis.experiments if one.text],
        'tables': _experiment_sheets(diagnosis.experiments),
        'not_judged': [(why, ', '.join(codes)) for why, codes in by_reason.items()],
        'remarks': diagnosis.remarks,
    }


def _finding(finding: Cause) -> dict:
    lines = '\n'.join(words(finding.settings))
    return {
        **{name: getattr(finding, name) for name in ('code', 'severity', 'text', 'follows_from', 'explains', 'source')},
        'sure': sureness(finding.confidence),
        'advice': (finding.remedy or '').removesuffix(lines).strip(),
        'lines': lines,
    }


def _experiment_sheets(experiments: Sequence[Experiment]) -> list[Sheet]:
    measured = [one for one in experiments if one.gain is not None]
    found = []
    if measured:
        headings = ('experiment', 'mask IoU', 'after', 'gain', 'standard error', 'objects')
        rows = tuple(
            (one.name, f'{one.before:.3f}', f'{one.after:.3f}', f'{one.gain:+.3f}', f'{one.error:.3f}', str(one.objects))
            for one in measured
        )
        found.append(Sheet('Experiments: one thing made right', headings, rows, frozenset({0})))
    for one in experiments:
        columns = list(dict.fromkeys(column for row in one.table.values() for column in row))
        if columns:
            rows = tuple((name, *(_cell(row.get(column)) for column in columns)) for name, row in one.table.items())
            found.append(Sheet(one.name, ('', *columns), rows, frozenset({0})))
    return found


def _cell(value: float | None) -> str:
    return '-' if value is None else f'{value:.3g}'


def write_html(page: Page, path: Path) -> None:
    """The page as a file."""
    path.write_text(to_html(page), encoding='utf-8')
