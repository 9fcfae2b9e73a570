import csv
import io
import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.analysis.compare import compare
from mmext.analysis.compare_report import cell, remarks, sheets, short_names, to_csv, to_markdown
from mmext.console import plain
from mmext.errors import InputError

STAMP = '20260101_000000'
CONFIG = "model = dict(type='MaskRCNN')\noptim_wrapper = dict(optimizer=dict(lr={lr}))\ntrain_cfg = dict(max_epochs=3)\n"


def train(step, epoch=1, **more):
    return {'loss': 1.0, 'loss_mask': 0.25, 'loss_cls': 0.75, 'time': 0.5, 'epoch': epoch, 'step': step, **more}


def val(step, box, mask, **more):
    return {'coco/bbox_mAP': box, 'coco/segm_mAP': mask, 'coco/segm_mAP_l': -1.0, 'step': step, **more}


def make_run(folder, lines, lr=0.01, stamp=STAMP, text=None):
    log = folder / stamp / 'vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(''.join(json.dumps(line) + '\n' for line in lines) if text is None else text)
    (log.parent / 'config.py').write_text(CONFIG.format(lr=lr))
    os.utime(log, (time.time() - 86_400,) * 2)
    return folder


@pytest.fixture
def two(tmp_path):
    """``one``: mask AP best at epoch 1, box AP at epoch 2; ``two``: broken off before its first validation."""
    lines = [train(10), val(10, 0.2, 0.25, val_loss=0.9), train(20, 2), val(20, 0.3, 0.2, val_loss=1.1)]
    lines += [train(30, 3, loss_mask=0.5), val(30, 0.25, 0.1, val_loss=1.2)]
    return make_run(tmp_path / 'one', lines), make_run(tmp_path / 'two', [train(10, loss=2.0)], lr=0.1)


def row_of(answer, run):
    return next(row for row in answer.rows if row['run'] == run)


def test_a_row_is_of_one_validation(two):
    row = row_of(compare(two), 'one')
    assert (row['validation'], row['box_ap'], row['mask_ap'], row['val_loss']) == (1, 0.2, 0.25, 0.9)
    assert row['mask_ap_l'] is None  # COCO's -1: there is no such object
    row = row_of(compare(two, metric='box AP'), 'one')
    assert (row['validation'], row['box_ap'], row['mask_ap']) == (2, 0.3, 0.2)
    assert row_of(compare(two, metric='val_loss'), 'one')['val_loss'] == 0.9  # the lowest
    row = row_of(compare(two, at='last'), 'one')
    assert (row['validation'], row['mask_ap'], row['epochs'], row['state']) == (3, 0.1, 3, 'finished')


def test_of_equally_good_validations_the_first(tmp_path):
    make_run(tmp_path / 'a', [train(10), val(10, 0.1, 0.3), train(20, 2), val(20, 0.2, 0.3)])
    assert row_of(compare([tmp_path / 'a']), 'a')['validation'] == 1


def test_sort_puts_the_best_first_and_what_has_none_last(tmp_path):
    for name, ap, loss in (('a', 0.2, 0.5), ('b', None, None), ('c', 0.4, 0.9), ('d', 0.3, float('nan'))):
        lines = [train(10)] + ([] if ap is None else [val(10, 0.1, ap, val_loss=loss)])
        make_run(tmp_path / name, lines)

    def order(by):
        return [run.name for run in compare([tmp_path], sort=by).runs]

    assert order(None) == ['a', 'b', 'c', 'd']
    assert order('mask_ap') == ['c', 'd', 'a', 'b']
    assert order('val_loss') == ['a', 'c', 'b', 'd']
    assert order('run') == ['a', 'b', 'c', 'd']


def test_a_name_that_no_run_has_is_an_error_with_the_nearest(two):
    with pytest.raises(InputError, match=r"metric: no run has 'mask_app'.*Did you mean 'mask_ap'\?"):
        compare(two, metric='mask_app')
    with pytest.raises(InputError, match='metric: state is not measured in validation'):
        compare(two, metric='state')
    with pytest.raises(InputError, match="sort: no run has 'x'"):
        compare(two, sort='x')


def test_what_stands_in_the_tables(two):
    text = '\n'.join(sheet.title + plain(sheet.to_table()) for sheet in sheets(compare(two)))
    for words in (
        'broken off',
        '0.250',
        '0.500 40%',
        'optim_wrapper.optimizer.lr',
        '0.01',
        'highest mask AP, the best of 3',
    ):
        assert words in text
    assert sheets(compare(two, at='last'))[1].title == 'Last validation'
    assert 'broken off, by a crash or a kill' in '\n'.join(remarks(compare(two)))


@pytest.mark.parametrize('width', [24, 40, 60, 80, 120])
def test_numbers_are_shown_whole_or_not_at_all(two, width):
    from rich.console import Console

    for sheet in sheets(compare(two), width=width):
        out = io.StringIO()
        Console(file=out, width=width).print(sheet.to_table())
        assert '…' not in out.getvalue()
    validation = sheets(compare(two), width=24)[1]
    assert 'mask AP' in validation.headings
    assert validation.hidden
    assert not sheets(compare(two), width=120)[1].hidden


def test_columns_of_ones_own(two):
    answer = compare(two)
    (sheet, _) = sheets(answer, ['state', 'share_mask', 'mask_ap'])
    assert sheet.headings == ('run', 'state', 'share mask', 'mask AP')
    assert sheet.rows == (('one', 'finished', '40%', '0.250'), ('two', 'broken off', '25%', '-'))


def test_many_runs_are_a_matrix(tmp_path):
    for i in range(7):
        make_run(tmp_path / f'r{i}', [train(10)], lr=i)
    sheet = sheets(compare([tmp_path]))[-1]
    assert sheet.headings == ('run', 'lr')
    assert sheet.rows == tuple((f'r{i}', str(i)) for i in range(7))


def test_short_names_tell_keys_apart():
    keys = ['a.b.type', 'a.c.type', 'x.lr', 'b.type']
    assert short_names(keys) == {'a.b.type': 'a.b.type', 'a.c.type': 'c.type', 'x.lr': 'lr', 'b.type': 'b.type'}


def test_csv_and_markdown_have_what_the_tables_have(two):
    answer = compare(two)
    rows = list(csv.DictReader(io.StringIO(to_csv(answer))))
    assert [(row['run'], row['mask_ap'], row['config.optim_wrapper.optimizer.lr']) for row in rows] == [
        ('one', '0.25', '0.01'),
        ('two', '', '0.1'),
    ]
    text = to_markdown(answer)
    assert '| key | one | two |' in text
    assert '- two: broken off' in text
    lines = [line for line in text.splitlines() if line.startswith('|')]
    assert all(line.endswith('|') for line in lines)


def test_the_record_is_json_without_nan(two):
    record = json.loads(compare(two).to_json())
    assert record['schema_version'] == 2
    first, second = record['runs']
    assert (first['best']['box_ap'], first['mask_ap'], second['best']['box_ap']) == (0.3, 0.25, None)
    assert second['shares'] == {'mask': 0.25, 'cls': 0.75}
    assert record['config_differences'] == {'optim_wrapper.optimizer.lr': {'one': 0.01, 'two': 0.1}}


def test_runs_that_cannot_be_read_are_entries(two, tmp_path):
    make_run(tmp_path / 'bad', [], text='garbage\n')
    answer = compare([*two, tmp_path / 'bad', tmp_path / 'none'])
    assert [run.state for run in answer.runs] == ['finished', 'broken off', 'unreadable', 'unreadable']
    assert [run.name for run in answer.readable] == ['one', 'two']
    assert set(answer.differences['optim_wrapper.optimizer.lr']) == {'one', 'two', 'bad'}
    assert 'there is no such folder' in to_markdown(answer)


SEED_CONFIG = CONFIG + 'randomness = dict(seed={seed})\n'


@pytest.fixture
def seeds(tmp_path):
    """Settings ``low`` and ``high`` with three seeds each; ``high`` is better by 0.1 ± 0.01."""
    for seed, gain in enumerate((0.09, 0.1, 0.11)):
        for name, ap in (('low', 0.2 + seed / 100), ('high', 0.2 + seed / 100 + gain)):
            folder = make_run(tmp_path / f'{name}-seed{seed}', [train(10, 3), val(10, 0.3, ap, val_loss=1 - ap)])
            config = SEED_CONFIG.format(lr=0.1 if name == 'low' else 1.0, seed=seed)
            (folder / STAMP / 'vis_data/config.py').write_text(config)
    return tmp_path


def test_settings_over_their_seeds(seeds):
    answer = compare([seeds], sort='run', noise=True)
    assert [(one.name, len(one.runs)) for one in answer.settings] == [('high', 3), ('low', 3)]
    assert answer.over(answer.settings[1], 'mask_ap') == pytest.approx((0.21, 0.01))
    sheet = next(sheet for sheet in sheets(answer) if sheet.title.startswith('Over the seeds'))
    assert sheet.rows[1][:3] == ('low', '3', '0.210 ± 0.010')
    assert 'low is worse' in '\n'.join(remarks(answer))
    assert 'low is worse' in '\n'.join(remarks(compare([seeds], sort='run', metric='val_loss', noise=True)))
    assert 'seeds' in '\n'.join(remarks(answer))
    record = json.loads(answer.to_json())
    assert record['over_seeds']['verdict'] == 'worse'
    assert record['settings'][0]['means']['mask_ap'] == pytest.approx([0.31, 0.02])


def test_two_runs_by_their_predictions(two, tmp_path):
    import numpy as np

    from mmext.analysis.predictions import FILES, file_hash, pack

    boxes = [[5.0, 5.0, 25.0, 25.0]]
    images = [{'id': i, 'file_name': f'{i}.png', 'height': 40, 'width': 40} for i in range(20)]
    annotations = [
        {'id': i + 1, 'image_id': i, 'category_id': 1, 'bbox': [5, 5, 20, 20], 'area': 400, 'iscrowd': 0}
        | {'segmentation': [[5, 5, 25, 5, 25, 25, 5, 25]]}
        for i in range(20)
    ]
    coco = tmp_path / 'val.json'
    coco.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'Fiber'}]}))
    about = {'epoch': 1, 'iteration': 10, 'begin': 0, 'classes': ['Fiber'], 'ann_file': str(coco)}
    about |= {'sha256': file_hash(coco), 'metrics': {}}
    assert compare(two, noise=True).noise is None  # none were kept
    for run, missed in ((two[0], 10), (two[1], 0)):
        found = [
            {
                'image_id': i,
                'size': [40, 40],
                'labels': np.zeros(int(i >= missed), int),
                'scores': np.full(int(i >= missed), 0.9, np.float32),
                'boxes': np.array(boxes if i >= missed else [], np.float32).reshape(-1, 4),
            }
            for i in range(20)
        ]
        (run / STAMP / FILES['best']).write_bytes(pack(found, about))
    answer = compare(two, noise=True)
    assert answer.noise.problem is None
    assert 'two is better' in '\n'.join(remarks(answer))
    titles = [sheet.title for sheet in sheets(answer)]
    assert any(title.startswith('By the predictions of the best validation of each') for title in titles)
    assert 'Images that changed most (found at any score, false from 0.5 on)' in titles
    assert json.loads(answer.to_json())['noise']['verdict'] == 'better'
    assert '| image | objects |' in to_markdown(answer)


def test_a_cell():
    from mmext.analysis.compare import Column

    assert cell(None, Column('x')) == '-'
    assert cell(float('nan'), Column('x')) == 'nan'
    assert cell(0.12345, Column('x')) == '0.123'


CONFIGS = [
    'train_cfg = dict(max_epochs=3)',
    'train_cfg = dict(max_epochs=0x'
    + 'f' * 5000
    + ')\nmodel = dict(a={1, 2}, b=b"x", c=[[{1: (2,)}]], d=1e999, e=..., f=2j)',
    'model = [dict(type=["a"]), {(1, 2): 3}, 4]\nparam_scheduler = [dict(type="A"), dict(type="A")]',
]
NAMES = ['loss', 'loss_mask', 'loss_cls', 'time', 'memory', 'epoch', 'step', 'coco/segm_mAP', 'mask/iou', 'val_loss']
LINE = st.dictionaries(st.sampled_from(NAMES), st.floats() | st.integers() | st.none() | st.text(max_size=3), max_size=6)
JSON = st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))
RECORD = st.dictionaries(st.sampled_from(['reason', 'text', 'status', 'verdict', 'findings', 'groups']), JSON, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(LINE.map(json.dumps) | st.text(max_size=20), max_size=5), min_size=1, max_size=3),
    st.text(max_size=30) | st.sampled_from(CONFIGS),
    RECORD,
)
def test_no_file_crashes_a_comparison(tmp_path_factory, starts, config, record):
    folder = tmp_path_factory.mktemp('runs') / 'a'
    for i, lines in enumerate(starts):
        stamp = f'2026010{i + 1}_000000'
        make_run(folder, [], stamp=stamp, text='')
        data = folder / stamp / 'vis_data'
        (data / 'scalars.json').write_text('\n'.join(lines), encoding='utf-8', errors='replace')
        (data / 'config.py').write_text(config, encoding='utf-8', errors='replace')
        for name in ('run_end', 'diagnosis', 'param_groups'):
            (folder / stamp / f'{name}.json').write_text(json.dumps(record))
    for _ in range(2):  # read, and from what was kept
        answer = compare([folder, folder / 'none'], sort='mask_ap')
        assert [plain(sheet.to_table()) for sheet in sheets(answer, width=100)]
        json.loads(answer.to_json())
        to_csv(answer)
        to_markdown(answer)


def test_a_run_that_was_resumed_is_of_the_setting_of_those_that_were_not(tmp_path):
    """MMDetection's --resume writes load_from=None into the config of the second start."""
    for seed, starts in ((0, 1), (1, 2)):
        for number in range(starts):
            logs = tmp_path / f'lr=2_seed={seed}' / f'2026010{number + 1}_000000' / 'vis_data'
            logs.mkdir(parents=True)
            epochs = (1, 2) if starts == 1 else (number + 1,)
            lines = [{'loss': 1.0, 'epoch': epoch, 'step': epoch} for epoch in epochs]
            (logs / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
            weights = 'None' if number else "'/a/b/source.pth'"
            settings = f'train_cfg = dict(max_epochs=2)\nload_from = {weights}\nresume = {bool(number)}\n'
            (logs / 'config.py').write_text(f'{settings}randomness = dict(seed={seed})\n')
        (logs.parent / 'run_end.json').write_text('{"text": "Training ended.", "reason": "length"}')
    found = compare([tmp_path])
    assert [(one.name, one.seeds) for one in found.settings] == [('lr=2', (0, 1))]
    assert list(found.differences) == ['randomness.seed']
