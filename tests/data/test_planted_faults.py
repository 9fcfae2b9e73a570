"""The benchmark's planted faults: each named by its code, and nothing said of the clean file."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'check' / 'faults.py'


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    spec = importlib.util.spec_from_file_location('planted_faults', SCRIPT)
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    faults.theirs = lambda path: None  # hotcoco is the benchmark's alone
    return faults.run(tmp_path_factory.mktemp('faults'))


def test_every_planted_fault_is_named_by_a_code_of_its_own(answers):
    missed = {row['fault']: row['ours'] for row in answers['faults'] if not row['named']}
    assert missed == {}
    assert len({row['expected'] for row in answers['faults']}) == len(answers['faults']) == 20


def test_the_clean_file_has_no_problem(answers):
    assert answers['clean']['ours_above_information'] is False
