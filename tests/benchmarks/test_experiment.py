"""The experiment's statistics, records and page: what is missing stays missing, and a verdict follows from its interval."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmext.analysis.bootstrap import over_seeds
from mmext.errors import InputError

FOLDER = Path(__file__).parents[2] / 'benchmarks' / 'experiment'
NAMES = ('cells', 'records', 'verdicts', 'report')
sys.path.insert(0, str(FOLDER))
try:
    cells, records, verdicts, report = map(importlib.import_module, NAMES)
finally:
    sys.path.remove(str(FOLDER))
    for name in NAMES:  # other benchmarks may have modules of these names
        sys.modules.pop(name, None)

BOX_AP, MASK_AP = records.BOX_AP, records.MASK_AP
ALL_RUNS = len(cells.tuning_runs(cells.CELLS)) + len(cells.counted_runs(cells.CELLS))
numbers = st.floats(-1, 1).map(lambda value: round(value, 4))
samples = st.lists(numbers, min_size=2, max_size=8)


def record(cell='core', setting='uniform-low', seed=0, mask_ap=0.3, **changes):
    metrics = {BOX_AP: 0.3, MASK_AP: mask_ap, 'mask/coverage': 0.8, 'mask/area_ratio': 1.0, 'mask/boundary_iou': 0.6}
    made = records.Record(
        cell=cell,
        setting=setting,
        seed=seed,
        diverged=False,
        iterations=120,
        groups=({'name': 'backbone', 'lr': 0.002, 'multiplier': 1.0, 'tensors': 3, 'fresh': []},),
        curve=({'iteration': 60, **metrics, MASK_AP: mask_ap / 2}, {'iteration': 120, **metrics}),
        log={'iteration': [5, 10], 'loss': [2.0, 1.0], 'share_mask': [0.5, 0.3]},
        test={} if setting.startswith('tuning-') else metrics,
        test_images=200,
        seconds_per_iteration=0.5,
        versions={'mmext': '0', 'torch': '0'},
    )
    return replace(made, **changes)


# ---- cells


def test_every_run_has_a_name_and_a_file_of_its_own():
    runs = [*cells.tuning_runs(cells.CELLS), *cells.counted_runs(cells.CELLS)]
    assert len({run.name for run in runs}) == len({records.path_of(run, Path()) for run in runs}) == len(runs)


def test_the_core_cell_is_nine_settings_with_five_seeds_that_choose_nothing():
    core = report.CORE
    assert (len(core.settings), core.seeds) == (9, (0, 1, 2, 3, 4))
    assert not set(core.seeds) & set(core.tuning)
    assert len(cells.tuning_runs([core])) == 2 * len(cells.RATES)


def test_a_setting_replaces_all_custom_keys_and_keeps_its_share_of_stages():
    for run in cells.counted_runs(cells.CELLS):
        options = cells.options_of(run, 0.01)
        assert options['optim_wrapper.paramwise_cfg.custom_keys']['_delete_'] is True
        assert options['randomness.seed'] == run.seed
    staged = next(run for run in cells.counted_runs(cells.CELLS) if run.setting.name == 'staged')
    stages = cells.options_of(staged)['default_hooks.staged_training']['stages']
    assert stages == [{'epochs': 2, 'train': 'heads'}, {'train': 'all'}]


def test_uniform_best_takes_the_rate_that_it_is_given():
    run = next(run for run in cells.counted_runs(cells.CELLS) if run.setting.name == cells.BEST)
    assert cells.options_of(run, 0.02)['optim_wrapper.optimizer.lr'] == 0.02


# ---- records


def test_a_record_is_read_as_it_was_written(tmp_path):
    run = cells.counted_runs(cells.CELLS)[0]
    one = record(test={MASK_AP: 0.25}, diverged=True)
    records.write_record(one, records.path_of(run, tmp_path))
    assert records.read_records(tmp_path) == [one]


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"schema_version": 1, "cell": "core"}'])
def test_a_file_that_is_no_record_is_named_with_what_to_do(tmp_path, text):
    path = tmp_path / 'core' / 'x-seed0.json'
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match=r'x-seed0\.json: is no record of a run .*Remove it; run\.py makes it anew'):
        records.read_records(tmp_path)


def test_a_record_of_another_version_is_refused(tmp_path):
    path = tmp_path / 'record.json'
    records.write_record(record(), path)
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(InputError, match='schema_version is 2, this program reads 1'):
        records.read_record(path)


@given(st.data())
def test_missing_runs_are_those_without_a_record(data):
    runs = cells.counted_runs(cells.CELLS)
    there = data.draw(st.sets(st.sampled_from(range(len(runs)))))
    made = [record(runs[i].cell.name, runs[i].setting.name, runs[i].seed) for i in there]
    assert records.missing(runs, made) == [run for i, run in enumerate(runs) if i not in there]


def test_a_run_that_diverged_counts_with_ap_0_and_without_masks():
    lost = record(diverged=True, test={})
    assert (lost.value(MASK_AP), lost.value(BOX_AP), lost.value('mask/iou'), lost.end_share) == (0, 0, None, None)


def test_a_tuning_run_is_judged_by_the_validation_part():
    assert record(setting='tuning-0.01', mask_ap=0.4).value(MASK_AP) == 0.4


def test_the_end_share_is_of_the_last_fifth_of_the_log():
    log = {'iteration': list(range(10)), 'loss': [1.0] * 10, 'share_mask': [0.9] * 8 + [0.2, 0.4]}
    assert record(log=log).end_share == pytest.approx(0.3)


def tuning(values):
    """A record for each seed and rate, as ``values`` has it by rate."""
    return [
        record(setting=f'tuning-{rate:g}', seed=seed, mask_ap=value)
        for rate, by_seed in values.items()
        for seed, value in zip(report.CORE.tuning, by_seed, strict=True)
    ]


def test_the_best_rate_is_that_of_the_highest_mean_the_lower_of_two():
    made = tuning(dict.fromkeys(cells.RATES, (0.1, 0.1)) | {5e-3: (0.5, 0.0), 1e-2: (0.3, 0.3), 2e-2: (0.3, 0.3)})
    assert records.best_rate(made, report.CORE) == 1e-2
    assert records.best_rate(made[:-1], report.CORE) is None
    assert records.best_rate([], next(cell for cell in cells.CELLS if not cell.tuning)) is None


def test_a_setting_that_stands_for_another_is_found_under_its_name():
    made = [record(setting='differential-10x', seed=seed) for seed in range(5)]
    assert list(records.by_seed(made, 'mask-size', '28')) == [0, 1, 2, 3, 4]


# ---- statistics


@given(samples)
def test_an_interval_is_the_houses_own_at_95_per_cent(found):
    one, theirs = verdicts.interval(found), over_seeds([0.0] * len(found), found)
    assert (one.value, one.low, one.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-9)


@given(samples)
def test_a_higher_level_gives_a_wider_interval_and_p_agrees_with_it(found):
    one, wide = verdicts.interval(found), verdicts.interval(found, verdicts.LEVEL)
    assert wide.low <= one.low <= one.value + 1e-12
    assert one.value - 1e-12 <= one.high <= wide.high
    if abs(one.p - 0.05) > 1e-6:
        assert (one.p < 0.05) == (one.low > 0 or one.high < 0)


def test_an_interval_of_one_value_is_refused():
    with pytest.raises(InputError, match='two values at least; there are 1'):
        verdicts.interval([0.3])


@given(st.dictionaries(st.integers(0, 9), numbers), st.dictionaries(st.integers(0, 9), numbers))
def test_a_paired_difference_is_over_the_seeds_that_both_have(first, second):
    one, seeds = verdicts.paired(first, second), first.keys() & second.keys()
    if len(seeds) < 2:
        assert one is None
    else:
        assert one.number == len(seeds)
        assert one.value == pytest.approx(np.mean([second[seed] - first[seed] for seed in seeds]))


@given(st.lists(st.floats(0, 1), max_size=8), st.randoms())
def test_holms_correction_is_between_none_and_bonferronis_whatever_the_order(p_values, random):
    corrected = verdicts.holm(p_values)
    assert all(p <= one <= min(1, p * len(p_values)) + 1e-12 for p, one in zip(p_values, corrected, strict=True))
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert sorted(verdicts.holm([p_values[i] for i in order])) == sorted(corrected)


def test_holms_correction_of_a_worked_example():
    assert verdicts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def interval_of(low, value, high):
    return verdicts.Interval(value, low, high, 0.01, 5)


@pytest.mark.parametrize(
    ('low', 'value', 'high', 'verdict'),
    [
        (0.01, 0.03, 0.05, 'supported'),
        (0.001, 0.01, 0.019, 'refuted'),  # better, and too little to matter
        (-0.03, -0.01, 0.01, 'refuted'),
        (0.001, 0.015, 0.03, 'undecided'),
        (-0.01, 0.03, 0.07, 'undecided'),
    ],
)
def test_h1_follows_from_its_interval_and_margin(low, value, high, verdict):
    assert verdicts.verdict_h1(interval_of(low, value, high)) == verdict


def test_h1_without_two_seeds_is_undecided():
    assert verdicts.verdict_h1(None) == 'undecided'


def by_seed(*found):
    return dict(enumerate(found))


@pytest.mark.parametrize(
    ('fresh', 'share', 'verdict'),
    [
        ((0.29, 0.30, 0.31), 0.9, 'supported'),
        ((0.21, 0.22, 0.23), 0.1, 'refuted'),
        ((0.10, 0.25, 0.40), 0.4, 'undecided'),
    ],
)
def test_h2_is_whether_half_of_the_gain_is_the_fresh_tensors(fresh, share, verdict):
    low, ten = by_seed(0.2, 0.21, 0.22), by_seed(0.3, 0.31, 0.32)
    found = verdicts.fresh_share(low, by_seed(*fresh), ten)
    assert found.gain.value == pytest.approx(0.1)
    assert found.share == pytest.approx(share)
    assert verdicts.verdict_h2(found) == verdict


def test_h2_without_a_gain_is_undecided():
    same = by_seed(0.2, 0.21, 0.22)
    found = verdicts.fresh_share(same, by_seed(0.3, 0.3, 0.3), same)
    assert (found.share, verdicts.verdict_h2(found)) == (None, 'undecided')


@pytest.mark.parametrize(
    ('box_ap', 'coverage', 'area', 'verdict', 'masks'),
    [
        (0.30, 0.40, 0.5, 'supported', 'small'),
        (0.30, 0.40, 1.1, 'undecided', 'ragged'),
        (0.10, 0.40, 0.5, 'refuted', 'small'),  # small masks, and bad boxes with them
        (0.30, 0.80, 1.0, 'refuted', 'cover'),
    ],
)
def test_h0_asks_for_small_masks_where_boxes_are_good(box_ap, coverage, area, verdict, masks):
    near = (-0.01, 0.0, 0.01)
    found = verdicts.symptoms(
        {'other': [0.3, 0.3, 0.3], 'it': [box_ap] * 3},
        {'other': [0.8 + one for one in near], 'it': [coverage + one for one in near]},
        {'other': [1.0] * 3, 'it': [area] * 3},
    )
    assert verdicts.verdict_h0(found) == verdict
    assert found[1].masks == masks


def test_h0_without_runs_is_undecided():
    assert verdicts.verdict_h0([]) == 'undecided'


shares = st.lists(st.floats(0, 1).map(lambda value: round(value, 3)), min_size=2, max_size=30)


@settings(deadline=None)  # scikit-learn is imported in the first of them
@given(shares, st.data())
def test_the_area_under_the_roc_is_mann_whitneys(found, data):
    bad = data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    one = verdicts.roc(found, bad, 0.2, True)
    if all(bad) or not any(bad):
        assert one is None
        return
    first, second = ([s for s, b in zip(found, bad, strict=True) if b is kind] for kind in (False, True))
    statistic = stats.mannwhitneyu(first, second).statistic
    assert one.area == pytest.approx(statistic / (len(first) * len(second)))
    # the rule that calls high shares bad is this one turned round
    assert verdicts.roc(found, bad, 0.2, False).area == pytest.approx(1 - one.area)
    assert one.at == (np.mean([s < 0.2 for s in first]), np.mean([s < 0.2 for s in second]))


def test_shares_without_a_judgement_are_refused():
    with pytest.raises(InputError, match='There are 2 shares and 1 judgements'):
        verdicts.roc([0.1, 0.2], [True], 0.2, True)


def test_a_run_that_has_no_mask_ap_is_bad():
    assert [verdicts.is_bad(value, 0.3) for value in (None, math.nan, 0.26, 0.28)] == [True, True, True, False]


def test_two_settings_meet_at_the_first_validation_that_is_near_enough():
    curve = {30: 0.1, 60: 0.295, 90: 0.28, 120: 0.31}
    assert verdicts.meeting(curve, 0.3) == 60
    assert verdicts.meeting(curve, 0.4) is None


# ---- the page


def complete():
    """Records of all runs, each setting a little better than the one before."""
    runs = [*cells.tuning_runs(cells.CELLS), *cells.counted_runs(cells.CELLS)]
    return [
        record(run.cell.name, run.setting.name, run.seed, 0.2 + 0.01 * place + 0.001 * run.seed**2)
        for run in runs
        for place in [[one.name for one in run.cell.settings].index(run.setting.name) if not run.is_tuning else 0]
    ]


def test_without_a_run_the_page_has_its_settings_and_says_that_nothing_has_been_run():
    tables = {name: table([]) for name, table in report.TABLES.items()}
    assert 'core: staged' in tables.pop('settings')
    assert f'{ALL_RUNS} of {ALL_RUNS} runs are missing' in tables.pop('missing')
    assert set(tables.values()) == {report.NOTHING}


def test_missing_runs_are_reported_and_comparisons_are_over_the_seeds_that_are_there():
    made = [one for one in complete() if (one.cell, one.setting, one.seed) != ('core', 'differential-10x', 3)]
    assert f'1 of {ALL_RUNS} runs are missing' in report.missing_table(made)
    assert 'differential-10x 3' in report.missing_table(made)
    rows = {row.split('|')[1].strip(): row.split('|')[2].strip() for row in report.differences_table(made).splitlines()}
    assert rows['core: differential-10x − uniform-best'] == '4'
    assert rows['core: differential-5x − uniform-best'] == '5'


def test_all_tables_and_figures_are_made_from_the_records_alone(tmp_path):
    made = complete()
    tables = {name: table(made) for name, table in report.TABLES.items()}
    assert tables['missing'] == f'All {ALL_RUNS} runs are there.'
    assert report.NOTHING not in tables.values()
    assert tables['figures'].count('](images/experiment_') == 3
    assert '| H1 | mask AP, 10x − uniform-best: +0.020' in tables['verdicts']
    files = report.write_figures(made, tmp_path)
    assert [path.name for path in files] == [f'experiment_{name}.png' for name in ('curves', 'masks', 'shares')]
    assert all(path.stat().st_size for path in files)


def test_the_page_is_filled_between_its_markers_and_twice_gives_the_same():
    page = 'a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n'
    filled = report.filled(page, {'x': r'| \1 |'})
    assert filled == 'a\n<!-- begin x -->\n| \\1 |\n<!-- end x -->\nb\n'
    assert report.filled(filled, {'x': r'| \1 |'}) == filled


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(InputError, match=r'must have <!-- begin x --> and <!-- end x --> once'):
        report.filled('<!-- begin x -->', {'x': ''})


def test_the_protocol_has_a_place_for_each_table():
    page = (FOLDER.parents[1] / 'docs' / 'experiment.md').read_text(encoding='utf-8')
    report.filled(page, dict.fromkeys(report.TABLES, ''))
