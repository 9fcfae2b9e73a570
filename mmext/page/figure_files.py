"""The figures of the page as files for paper: PNG at 300 dpi and PDF with vectors, drawn from the same numbers. No torch."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from mmext.analysis.digest import Digest
from mmext.errors import InputError
from mmext.page.html_page import DASHES, PALETTE, Page
from mmext.page.panels import LOG, SHARE, VAL, Line, Panel, Section, log_ticks, words_of

_DPI = 300
_COLUMNS = 3
_PANEL = (3.2, 2.3)  # inches
_LEGEND_COLUMNS = 4
_STYLES = dict(zip(DASHES, ('-', '--', ':', '-.'), strict=True))
_MARKERS = ('o', 's', 'D', '^')
_LONGEST_NAME = 40


def write_figures(page: Page, folder: Path) -> list[Path]:
    """Write each section of curves as ``KEY.png`` and ``KEY.pdf``, and return the files.

    Raises:
        InputError: matplotlib is not installed.
        OSError: the folder cannot be written to.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(f"--png needs {error.name}, which is not installed: pip install 'mmext[report]'.") from None
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    # text in the PDF stays text; names of runs are no formulas
    with matplotlib.rc_context({'pdf.fonttype': 42, 'text.parse_math': False, 'font.size': 8, 'savefig.dpi': _DPI}):
        for section in page.figures:
            figure = _drawn(section, page.runs)
            for ending in ('png', 'pdf'):
                written.append(folder / f'{section.key}.{ending}')
                figure.savefig(written[-1])
                figure.set_layout_engine('none')  # the PDF has the PNG's, which took the time
    return written


def _drawn(section: Section, runs: Sequence[Digest]):
    """The section as a figure of matplotlib, without pyplot's windows and global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(section.panels))
    rows = math.ceil(len(section.panels) / columns)
    handles = _legend(section, runs)
    entries = math.ceil(len(handles) / _LEGEND_COLUMNS) * 0.18 + 0.3
    figure = Figure(figsize=(max(_PANEL[0] * columns, 4.8), _PANEL[1] * rows + entries), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    last = max((x for panel in section.panels for line in panel.lines for x in line.x), default=1)
    for axis, panel in zip(axes, section.panels, strict=False):
        _panel(axis, panel, section)
        axis.set_xlim(0, last * 1.02)
    for axis in axes[len(section.panels) :]:
        axis.set_axis_off()
    figure.suptitle(section.title, fontsize=10, x=0.01, ha='left', weight='bold')
    figure.legend(handles=handles, loc='outside lower left', ncols=min(_LEGEND_COLUMNS, len(handles)), frameon=False)
    return figure


def _legend(section: Section, runs: Sequence[Digest]) -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if section.legend:
        stacked = any(panel.stacked for panel in section.panels)
        return [
            Patch(color=_colour(place), label=words_of(name))
            if stacked
            else Line2D([], [], color=_colour(place), linestyle=_dash(place), label=words_of(name))
            for place, name in enumerate(section.legend)
        ]
    there = sorted({line.run for panel in section.panels for line in panel.lines})
    found = [Line2D([], [], color=_colour(i), linestyle=_dash(i // len(PALETTE)), label=_short(runs[i].name)) for i in there]
    if section.key == 'losses' and any(line.kind == VAL for panel in section.panels for line in panel.lines):
        found.append(Line2D([], [], color='0.4', linestyle=':', marker='o', markersize=3, label='points: validation'))
    return found


def _panel(axis, panel: Panel, section: Section) -> None:
    axis.set_title(_short(panel.title), fontsize=8, loc='left')
    axis.set_xlabel('iteration')
    axis.set_ylabel(panel.unit)
    axis.grid(axis='y', color='0.9', linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[['top', 'right']].set_visible(False)
    if panel.stacked:
        colours = [_colour(section.legend.index(line.name)) for line in panel.lines]
        axis.stackplot(panel.lines[0].x, [line.y for line in panel.lines], colors=colours, linewidth=0)
    else:
        for line in panel.lines:
            _curve(axis, panel, line, section)
    if panel.band:
        axis.axhspan(*panel.band, color='white', alpha=0.28, linewidth=0)
        for height in panel.band:
            axis.axhline(height, color='black', linewidth=0.8, linestyle=':')
    for x, words in panel.marks:
        axis.axvline(x, color='0.2', linewidth=0.7, linestyle='--')
        axis.annotate(words, (x, 1), xycoords=('data', 'axes fraction'), fontsize=6, ha='center', va='bottom')
    if panel.scale == SHARE:
        from matplotlib.ticker import PercentFormatter

        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_ylim(0, 1)
    elif panel.scale == LOG:
        _log_axis(axis, panel)
    else:
        # matplotlib leaves a margin by the range of the values: of values that are alike it would cut their points
        top = axis.dataLim.y1
        axis.set_ylim(0, 1.06 * top if 0 < top < float('inf') else None)


def _log_axis(axis, panel: Panel) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_yscale('log')
    shown, ticks = axis.get_ylim(), log_ticks(panel)
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.set_ylim(*shown)  # a tick beyond it would widen it
    axis.yaxis.set_minor_locator(NullLocator())


def _curve(axis, panel: Panel, line: Line, section: Section) -> None:
    if panel.run is None:
        colour, style = _colour(line.run), _dash(line.run // len(PALETTE))
    else:
        place = section.legend.index(line.name)
        colour, style = _colour(place), _dash(place)
    y = [math.nan if value is None else value for value in line.y]
    if line.kind == VAL:
        marker = _MARKERS[line.run % len(_MARKERS)]
        style = ':' if section.key == 'losses' else style
        axis.plot(line.x, y, color=colour, linestyle=style, linewidth=0.8, marker=marker, markersize=2.5)
    else:
        alone = not any(a is not None and b is not None for a, b in pairwise(line.y))
        axis.plot(line.x, y, color=colour, linestyle=style, linewidth=1, marker='o' if alone else None, markersize=2.5)
    if line.broken:
        bottom = [0.02] * len(line.broken)
        axis.plot(line.broken, bottom, 'x', color=colour, markersize=4, transform=axis.get_xaxis_transform(), clip_on=False)


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)]


def _dash(place: int) -> str:
    return _STYLES[DASHES[place % len(DASHES)]]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f'{name[: _LONGEST_NAME - 1]}…'
