"""The benchmark's planted faults: each named by its code, and nothing said of the clean file."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from mmext.data import sheets
from mmext.data.file_checks import check_file

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'check' / 'faults.py'


def benchmark():
    spec = importlib.util.spec_from_file_location('planted_faults', SCRIPT)
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    return faults


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    faults = benchmark()
    faults.theirs = lambda path: None  # hotcoco is the benchmark's alone
    return faults.run(tmp_path_factory.mktemp('faults'))


def test_every_planted_fault_is_named_by_a_code_of_its_own(answers):
    missed = {row['fault']: row['ours'] for row in answers['faults'] if not row['named']}
    assert missed == {}
    assert len({row['expected'] for row in answers['faults']}) == len(answers['faults']) == 20


def test_the_clean_file_has_no_problem(answers):
    assert answers['clean']['ours_above_information'] is False


def test_what_is_left_of_each_faulty_file_can_be_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, '_histogram', lambda sizes, source, path: path.write_bytes(b''))  # half a second each
    monkeypatch.setattr(sheets, 'PER_SHEET', 4)
    faults = benchmark()
    document = faults.made_document(tmp_path)
    negative = faults.set_on_victim(bbox=[50, 50, -20, -20]), 'box-negative'
    for name, (plant, _) in {**faults.FAULTS, 'negative box': negative}.items():
        spoilt = copy.deepcopy(document)
        plant(spoilt)
        (tmp_path / 'spoilt.json').write_text(json.dumps(spoilt))
        coco, findings = check_file(tmp_path / 'spoilt.json', tmp_path, 'train', faults.CLASSES)
        assert findings or coco, name
        if coco is not None:
            assert len(sheets.write_sheets(coco, tmp_path, tmp_path / 'show')) == 10, name
