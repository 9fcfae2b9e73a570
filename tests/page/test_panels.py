import math

import pytest

from mmext.analysis.compare import compare
from mmext.analysis.digest import Digest
from mmext.page.panels import MASK_BAND, TRAIN, VAL, Line, Panel, log_ticks, sections, words_of

TWO, BROKEN, NO_VAL, STOCK = 'two <b>stages', 'broken', 'no validation', 'stock'


@pytest.fixture
def shown(shown_runs):
    """The runs, and their sections by key."""
    runs = compare([shown_runs], curves=True).readable
    return runs, {section.key: section for section in sections(runs)}


def place(runs, name):
    return next(i for i, run in enumerate(runs) if run.name == name)


def panel(section, key):
    return next(panel for panel in section.panels if panel.key == key)


def test_losses_are_those_of_the_log_with_their_validation_at_the_iteration(shown):
    runs, found = shown
    mask = panel(found['losses'], 'loss-mask')
    lines = {(runs[line.run].name, line.kind): line for line in mask.lines}
    trained = lines[TWO, TRAIN]
    assert (trained.x[:2], trained.y[:2]) == ((5, 10), (0.5, pytest.approx(1 / 3, rel=1e-4)))
    validated = lines[TWO, VAL]
    assert (validated.x, validated.y) == ((20, 40, 60, 80, 100), (0.25, 0.125, pytest.approx(0.083333), 0.0625, 0.05))
    assert (NO_VAL, VAL) not in lines
    assert (STOCK, VAL) not in lines
    assert [one.key for one in found['losses'].panels][:3] == ['loss-total', 'loss-mask', 'loss-cls']


def test_what_is_no_number_is_a_gap_with_its_place(shown):
    runs, found = shown
    line = next(one for one in panel(found['losses'], 'loss-total').lines if runs[one.run].name == BROKEN)
    assert line.y[-3:] == (None, None, None)
    assert line.broken == (60, 65, 70)
    assert all(
        y is None or math.isfinite(y) for section in found.values() for p in section.panels for one in p.lines for y in one.y
    )


def test_stock_counts_validations_in_epochs_and_they_stand_at_its_iterations(shown):
    runs, found = shown
    lines = {runs[line.run].name: line for line in panel(found['ap'], 'metric-coco/segm_mAP').lines}
    assert lines[STOCK].x == lines[TWO].x == (20, 40, 60, 80, 100)
    assert lines[STOCK].y == lines[TWO].y == (0.04, 0.08, 0.12, 0.16, 0.2)


def test_shares_add_up_to_one_and_have_the_band_where_it_holds(shown):
    runs, found = shown
    shares = panel(found['shares'], f'share-{place(runs, TWO)}')
    assert [line.name for line in shares.lines] == ['mask', 'cls', 'bbox', 'rpn_cls', 'rpn_bbox']
    assert sum(line.y[0] for line in shares.lines) == pytest.approx(1, abs=1e-4)
    assert shares.lines[0].y[0] == pytest.approx(5 / 15, rel=1e-4)
    assert shares.band == MASK_BAND
    assert 'paler band, 20% to 50%' in found['shares'].note


@pytest.mark.parametrize(
    ('change', 'value'),
    [('loss_mask.type', 'mmext.GCELoss'), ('loss_mask.loss_weight', 0.5)],
    ids=['another mask loss', 'a weight'],
)
def test_no_band_where_it_does_not_hold(shown, change, value):
    runs, _ = shown
    run = runs[place(runs, TWO)]
    changed = Digest(**{**vars(run), 'config': {**run.config, f'model.roi_head.mask_head.{change}': value}})
    (shares,) = [section for section in sections([changed]) if section.key == 'shares']
    assert shares.panels[0].band is None
    assert 'band' not in shares.note


def test_rates_of_each_part_with_the_stages(shown):
    runs, found = shown
    rates = panel(found['rates'], f'rate-{place(runs, TWO)}')
    assert [line.name for line in rates.lines] == ['backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head']
    assert rates.lines[4].y[0] / rates.lines[0].y[0] == pytest.approx(10, rel=1e-3)
    assert rates.marks == ((65, 'stage 2'),)
    assert [line.name for line in panel(found['rates'], f'rate-{place(runs, STOCK)}').lines] == ['all parts']


def test_a_rate_of_zero_is_a_gap_that_the_note_explains():
    lines = [{'loss': 1.0, 'backbone_lr': 0.0 if i < 3 else 0.1, 'head_lr': 0.1, 'step': i} for i in range(1, 6)]
    (rates,) = [one for one in sections([Digest(path=None, name='a', last=lines[-1], train=lines)]) if one.key == 'rates']
    assert rates.panels[0].lines[0].y == (None, None, 0.1, 0.1, 0.1)
    assert 'A rate of 0 has no place on a log axis' in rates.note


def test_of_a_long_log_the_last_line_and_every_broken_one_are_kept():
    lines = [{'loss': math.inf if i == 777 else 1.0, 'loss_mask': 1.0, 'step': i} for i in range(1, 1001)]
    losses = sections([Digest(path=None, name='a', last=lines[-1], train=lines)])[0]
    total = panel(losses, 'loss-total').lines[0]
    assert len(total.x) < 600
    assert total.x[-1] == 1000
    assert total.broken == (777,)


def test_many_broken_lines_are_marked_from_the_first_to_the_last():
    lines = [{'loss': math.nan if i > 200 else 1.0, 'step': i} for i in range(1, 1001)]
    total = panel(sections([Digest(path=None, name='a', last=lines[-1], train=lines)])[0], 'loss-total').lines[0]
    assert (total.broken[0], total.broken[-1]) == (201, 1000)
    assert len(total.broken) < 40


def test_nothing_to_show_is_no_section():
    assert sections([]) == []
    assert sections([Digest(path=None, name='a', last={'loss': 1.0}, train=[])]) == []


@pytest.mark.parametrize(('name', 'words'), [('rpn_cls', 'RPN class'), ('mask_head', 'mask head'), ('dice', 'dice')])
def test_names_in_words(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize(
    ('values', 'ticks'),
    [
        ((3e-4, 9e-3), '1e-4 2e-4 5e-4 1e-3 2e-3 5e-3 1e-2 2e-2 5e-2'),
        ((3e-4, 9e-4), '1e-4 2e-4 3e-4 4e-4 5e-4 6e-4 7e-4 8e-4 9e-4 1e-3 2e-3 3e-3 4e-3 5e-3 6e-3 7e-3 8e-3 9e-3'),
        ((1.3e-3, 1.3e-3), '1.3e-3'),
        ((2e-6, 0.5), '1e-6 1e-5 1e-4 1e-3 1e-2 1e-1 1e0'),
        ((None, None), ''),
    ],
)
def test_labels_of_a_log_axis_do_not_crowd(values, ticks):
    panel = Panel('rate-0', 'a', 'learning rate', (Line(0, 'backbone', TRAIN, (1, 2), values),))
    found = log_ticks(panel)
    assert ' '.join(found.values()) == ticks
    assert list(found) == [pytest.approx(float(text)) for text in found.values()]
