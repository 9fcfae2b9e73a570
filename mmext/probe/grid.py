"""Experiment: the best masks that the config's grid can draw, and what a grid twice as fine would add."""

import ast

from mmengine.config import Config

from mmext.analysis.diagnose import Cause, Experiment
from mmext.check.ceiling import grid_remedy, own_grid
from mmext.probe.objects import Part
from mmext.probe.weigh import LIMITS, Gain, limit, standard_error


def judge(val: Part, cfg: Config) -> Experiment | None:
    """Ceilings of the matched objects (mmext.check.ceiling); None where the masks have no grid of fixed size.

    What a finer grid wins is reckoned: the head reaches the same share of its ceiling as now.
    """
    own, _ = own_grid(cfg)
    if own is None:
        return None
    now, ceilings, images = val.column('now'), val.column('ceilings'), val.image_of()
    here, finer = ceilings.T
    share = float(now.mean() / here.mean()) if here.mean() else 0.0
    won = (finer - here) * share
    gain = Gain(float(now.mean()), float(now.mean() + won.mean()), standard_error(won, images), len(now))
    missing = 1 - gain.before
    by_grid = 1 - float(here.mean())
    grid, twice = f'{own[0]}x{own[1]}', f'{own[0] * 2}x{own[1] * 2}'
    text = (
        f'A mask learnt perfectly on the {grid} grid has mask IoU {here.mean():.3f}, on {twice} {finer.mean():.3f}: the '
        f'grid alone costs {by_grid:.3f}, {by_grid / missing if missing else 0:.0%} of what is missing. After: reckoned, '
        'with the same share of the ceiling as now.'
    )
    findings = ()
    if gain.surely(limit('worth')):
        much = gain.surely(limit('grid'))
        remedy = grid_remedy(cfg, own, (own[0] * 2, own[1] * 2))
        lines, _, recipe = remedy.partition('\n')
        settings = {key: ast.literal_eval(value) for key, _, value in (one.partition('=') for one in lines.split())}
        advice = f'A finer grid, to be trained anew{", " + recipe if recipe else ""}.'
        findings = (
            Cause(
                'mask-grid-coarse',
                'warning' if much else 'information',
                f'on the {grid} grid even perfect masks of these {gain.objects} objects have mask IoU {here.mean():.3f}, on '
                f'{twice} {finer.mean():.3f}; at the share of it that is reached now, {share:.0%}, that is {gain.words()}.',
                remedy='\n'.join([advice, *lines.split()]),
                cause='the mask grid is too coarse for these objects',
                explains=gain.value,
                confidence=0.6,
                source=LIMITS['grid' if much else 'worth'].source,
                settings=settings,
            ),
        )
    return Experiment('grid', gain.before, gain.after, gain.error, gain.objects, text, findings)
