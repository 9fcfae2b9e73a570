import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from mmengine.config import Config

import mmext
from mmext.analysis.findings import SEVERITIES, Finding
from mmext.check import report as module
from mmext.check.checkpoints import mmdet_folder
from mmext.check.report import CheckReport, check, not_said
from mmext.cli import cli
from mmext.data.own_data import write_config
from mmext.errors import InputError


@pytest.fixture
def planted(demo_data, tmp_path):
    """A function that changes the made training annotations and gives a config on them."""

    def config(change):
        folder = tmp_path / 'data'
        shutil.copytree(demo_data, folder)
        parts = [(folder / part / 'annotations.json', folder / part) for part in ('train', 'val')]
        write_config(*parts, 'mask-rcnn_r18_fpn_finetune', tmp_path / 'my.py')
        document = json.loads(parts[0][0].read_text())
        parts[0][0].write_text(json.dumps(change(document) or document))
        return tmp_path / 'my.py'

    return config


def answer(*arguments, status):
    """What the command writes to standard output, as lines."""
    done = CliRunner().invoke(cli, ['check', *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.stdout.splitlines()


def codes(report, severity=None):
    return [f.code for f in report.findings if severity in (None, f.severity)]


def test_clean_data_and_config(demo_config, tmp_path):
    lines = answer(demo_config, '--json', tmp_path / 'check.json', status=0)
    assert lines[0].startswith('No problem found')
    record = json.loads((tmp_path / 'check.json').read_text())
    assert record['counts'] | {'information': 0} == dict.fromkeys(SEVERITIES, 0)
    assert record['schema_version'] == 1
    assert record['crashes'] == []
    assert record['ceiling'][0]['own_grid'] == [28, 28]
    # remedies are to paste, so they are not wrapped: after the word, or indented below it
    remedy = re.compile('  Remedy: | {10}')
    assert [line for line in lines[1:] if len(line) > 120 and not remedy.match(line)] == []
    assert [line for line in lines if line != line.rstrip()] == []


def test_planted_faults_come_worst_first_with_their_remedy(planted):
    def change(document):
        document['annotations'][0]['segmentation'] = []
        for annotation in document['annotations']:
            if annotation['category_id'] == document['categories'][0]['id']:
                annotation['iscrowd'] = 1

    lines = answer(planted(change), '--cfg-options', 'train_cfg.val_interval=50', status=1)
    order = [line.split()[0].lower() for line in lines if re.match('SEVERE|WARNING|INFORMATION', line)]
    assert order == sorted(order, key=SEVERITIES.index)
    assert lines[0].startswith(f'{order.count("severe")} severe finding')
    assert 'SEVERE  mask-empty  (train)' in lines
    assert any(line.startswith('    - annotation 1 ') for line in lines)
    assert '  Remedy: train_cfg.val_interval=1' in lines


def test_every_annotation_of_the_file_is_accounted_for(planted):
    def change(document):
        document['annotations'][0]['category_id'] = 99
        document['annotations'][1]['area'] = 0
        change.total = len(document['annotations'])

    ledger = check(str(planted(change))).ledgers[0]
    assert (ledger.total, ledger.unusable, ledger.dropped) == (change.total, 1, {'box-too-small': 1})
    assert ledger.reaching == ledger.total - 2


def test_one_file_that_cannot_be_used_leaves_the_other_to_be_checked(planted, run_command):
    config = planted(lambda document: ['not COCO'])
    report = check(str(config))
    assert report.crashes == []
    (finding,) = [f for f in report.findings if f.code == 'annotation-file-unusable']
    assert (finding.severity, finding.where) == ('severe', 'train')
    assert [ledger.part for ledger in report.ledgers] == ['val']
    val = config.parent / 'data' / 'val' / 'annotations.json'
    val.write_text('{')
    done = run_command('mmext', 'check', config, status=2)
    assert done.stdout.count('mmext: ') == 1
    assert 'train/annotations.json' in done.stdout
    assert 'val/annotations.json' in done.stdout
    assert 'Traceback' not in done.stdout


def test_a_config_without_data(tmp_path):
    (tmp_path / 'empty.py').write_text('model = dict()\n')
    with pytest.raises(InputError, match='neither train_dataloader nor val_dataloader has a data set'):
        check(str(tmp_path / 'empty.py'))


def test_a_model_that_cannot_be_built_is_a_finding(demo_config):
    report = check(str(demo_config), ['model.backbone.depth=19'])
    (finding,) = [f for f in report.findings if f.code == 'check-impossible']
    assert finding.severity == 'severe'
    assert '19' in finding.text
    assert report.crashes == []
    assert len(report.ledgers) == 2


def test_a_crash_of_ours_hides_nothing_and_is_told(demo_config, monkeypatch, tmp_path):
    def broken(*_):
        raise ZeroDivisionError('planted')

    monkeypatch.setattr(module, 'check_masks', broken)
    done = CliRunner().invoke(cli, ['check', str(demo_config), '--json', str(tmp_path / 'check.json')])
    assert done.exit_code == 70
    assert 'masks: not checked: a defect of mmext' in done.stdout
    assert 'ZeroDivisionError: planted' in done.stderr
    record = json.loads((tmp_path / 'check.json').read_text())
    assert len(record['crashes']) == 2  # of train and of val
    assert len(record['ledger']) == 2


def test_input_error_of_one_check_is_a_severe_finding(demo_config, monkeypatch):
    def refuses(*_):
        raise InputError('no such thing')

    monkeypatch.setattr(module, 'check_traps', refuses)
    report = check(str(demo_config))
    assert codes(report, 'severe') == ['check-impossible']
    assert report.findings[0].text == 'traps: no such thing'


def test_images_and_sheets(demo_config, tmp_path):
    counted = {}
    report = check(
        str(demo_config),
        images=True,
        show=tmp_path / 'sheets',
        progress=lambda what, done, total: counted.update({what: total}),
    )
    assert report.crashes == []
    assert report.problem is False
    assert {'images of train', 'images of val'} <= counted.keys()
    assert report.sheets
    assert all(path.is_file() and path.is_relative_to(tmp_path / 'sheets') for path in report.sheets)
    assert report.images == {'train': 8, 'val': 4}


@pytest.mark.parametrize(
    'config',
    [
        'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco',  # points called anchors, two pipelines, evaluators' limits out of order
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco',  # num_things_classes, iterations instead of epochs
        'yolact/yolact_r50_1xb8-55e_coco',
        # batch norm over processes, a data set in a data set
        'simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-scp-90k_coco',
    ],
)
def test_stock_configs_of_every_form_are_checked_whole(config, demo_data, tmp_path):
    cfg = Config.fromfile(mmdet_folder() / 'configs' / f'{config}.py')
    for name in ('train', 'val'):
        dataset = cfg[f'{name}_dataloader'].dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        dataset.update(data_root=f'{demo_data}/{name}/', ann_file='annotations.json', data_prefix=dict(img=''))
        dataset.metainfo = dict(classes=('Fiber', 'Fragment', 'Film'))
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    for evaluator in evaluators:
        evaluator.ann_file = f'{demo_data}/val/annotations.json'
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.dump(tmp_path / 'stock.py')
    report = check(str(tmp_path / 'stock.py'))
    assert report.crashes == []
    assert 'num-classes-mismatch' in codes(report, 'severe')
    assert {'check-impossible', 'evaluator-limit-below-objects'} & set(codes(report)) == set()


def test_what_the_file_check_has_named_the_ledger_does_not_say_again():
    named = [
        Finding('mask-empty', 'severe', '2 annotations ...', 2, where='train'),
        Finding('class-not-in-file', 'severe', "class 'Film' of the config is not in x.json.", where='train'),
    ]
    same = [
        Finding('no-mask', 'severe', '2 annotations ...', 2, where='train'),
        Finding('class-without-objects', 'severe', "Class 'Film' has nothing to train on.", where='train'),
    ]
    assert not_said(same, named) == []
    more = [
        Finding('no-mask', 'severe', '3 annotations ...', 3, where='train'),
        Finding('no-mask', 'severe', '2 annotations ...', 2, where='val'),
        Finding('class-without-objects', 'severe', "Class 'Fiber' has nothing to train on.", where='train'),
        Finding('marked-ignore', 'information', '2 annotations ...', 2, where='train'),
    ]
    assert not_said(more, named) == more
    assert not_said(same[:1], [Finding('mask-empty', 'warning', '2 annotations ...', 2, where='train')]) == same[:1]


@pytest.mark.parametrize(
    ('severities', 'verdict', 'problem'),
    [
        ([], 'No problem found: my.py', False),
        (['information'], 'No problem found, 1 remark: my.py', False),
        (['severe', 'severe', 'warning', 'information'], '2 severe findings, 1 warning, 1 remark: my.py', True),
        (['warning', 'warning'], '2 warnings: my.py', True),
    ],
)
def test_verdict(severities, verdict, problem):
    report = CheckReport('my.py', [Finding('a-b', severity, 'Words.') for severity in severities])
    assert report.verdict == verdict
    assert report.problem is problem


@pytest.mark.parametrize(
    ('hooks', 'severity'),
    [
        ({'class_check': {'type': 'mmext.NoHook'}}, 'information'),
        ({'class_check': {'type': mmext.hooks.NoHook}}, 'information'),
        ({'class_check': None}, 'information'),
        ({'class_check': {'type': 'mmext.ClassCheckHook'}}, 'warning'),
        ({}, 'warning'),
        (None, 'warning'),
    ],
)
def test_a_class_left_out_with_its_check_switched_off_is_no_problem(hooks, severity):
    findings = [Finding('class-not-in-config', 'warning', 'Words.'), Finding('class-order', 'severe', 'Words.')]
    out, order = module.left_out_on_purpose(findings, Config({'default_hooks': hooks}))
    assert out.severity == severity
    assert order == findings[1]


def test_two_of_three_classes_on_purpose(demo_config):
    two = [f"{part}_dataloader.dataset.metainfo.classes=('Fiber','Film')" for part in ('train', 'val')]
    two += ['model.roi_head.bbox_head.num_classes=2', 'model.roi_head.mask_head.num_classes=2']
    left_out = [f for f in check(str(demo_config), two).findings if f.code == 'class-not-in-config']
    assert {f.severity for f in left_out} == {'warning'}
    remedy = next(word for word in left_out[0].remedy.split() if '=' in word)
    report = check(str(demo_config), [*two, remedy])
    assert {f.severity for f in report.findings if f.code == 'class-not-in-config'} == {'information'}
    assert not report.problem, codes(report)


# ---- docs/check.md is in step with the package

DOCUMENT = (Path(__file__).parents[2] / 'docs' / 'check.md').read_text()
SOURCES = [*Path(mmext.__file__).parent.glob('check/*.py')]
SOURCES += [Path(mmext.__file__).parent / 'data' / f'{name}.py' for name in ('class_names', 'split_checks', 'image_checks')]
SOURCES += [Path(mmext.__file__).parent / 'data' / f'{name}.py' for name in ('file_checks', 'mask_checks', 'mask_shapes')]
NO_CODES = {'utf-8'}


def test_every_code_is_in_the_document_and_no_other():
    literals = {code for path in SOURCES for code in re.findall(r"'([a-z]+(?:-[a-z0-9]+)+)'", path.read_text())} - NO_CODES
    documented = set(re.findall(r'^\| `([a-z0-9-]+)` \| (?:severe|warning|information)', DOCUMENT, re.MULTILINE))
    assert len(documented) > 60
    assert literals - documented == set()
    assert documented - literals == set()


def test_the_schema_in_the_document_is_that_of_the_answer(demo_config):
    example = json.loads(re.search(r'```json\n(.*?)```', DOCUMENT, re.DOTALL).group(1))
    record = json.loads(json.dumps(check(str(demo_config)).to_record()))
    assert example.keys() == record.keys()
    assert example['findings'][0].keys() == record['findings'][0].keys()
    for key in ('ledger', 'ceiling', 'sizes'):
        assert example[key][0].keys() == record[key][0].keys()
