import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmext.analysis.compare import compare
from mmext.analysis.diagnose import Experiment, diagnose
from mmext.errors import InputError
from mmext.page.html_page import PALETTE, _embedded, _labels, page_of, page_of_run, to_html


class Elements(HTMLParser):
    """Tags with their attributes, and what stands in scripts and in the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text, self._inside = [], [], '', None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == 'script':
            self.scripts.append('')

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == 'script':
            self.scripts[-1] += data
        elif self._inside != 'style':
            self.text += data


@pytest.fixture(scope='module')
def comparison(shown_runs):
    return compare([shown_runs], curves=True)


@pytest.fixture(scope='module')
def elements(comparison):
    return Elements(to_html(page_of(comparison)))


def test_it_loads_nothing_and_runs_only_its_own_scripts(elements):
    links = [value for _, attrs in elements.tags for name, value in attrs.items() if name in ('src', 'href', 'xlink:href')]
    assert links
    assert all(link.startswith(('#', 'data:')) for link in links)
    policy = next(attrs['content'] for tag, attrs in elements.tags if attrs.get('http-equiv') == 'Content-Security-Policy')
    assert "default-src 'none'" in policy
    _, *scripts = elements.scripts
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    assert hashes == [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]


def test_names_and_settings_of_a_run_are_text(elements):
    assert not [tag for tag, _ in elements.tags if tag in ('b', 'i')]
    assert 'two <b>stages' in elements.text
    assert "'</script><i>'" in elements.text
    assert json.loads(elements.scripts[0])['runs'] == ['broken', 'no validation', 'stock', 'two <b>stages']


def test_every_run_has_a_switch_and_every_panel_its_data(elements):
    switches = [attrs['data-toggle'] for tag, attrs in elements.tags if 'data-toggle' in attrs]
    assert switches == ['0', '1', '2', '3']
    plots = [attrs for _, attrs in elements.tags if attrs.get('class') == 'plot']
    data = json.loads(elements.scripts[0])
    assert [plot['data-panel'] for plot in plots] == [p['key'] for one in data['sections'] for p in one['panels']]
    mask_ap = next(plot['aria-label'] for plot in plots if plot['data-panel'] == 'metric-coco/segm_mAP')
    assert mask_ap == ('mask AP over iterations. Last: stock 0.2 at iteration 100; two <b>stages 0.2 at iteration 100.')


def test_states_verdicts_tables_and_differences_are_there(elements):
    for words in ('running', 'broken off', 'finished', 'loss-exploding', 'Last log line', 'optim_wrapper.'):
        assert words in elements.text, words


def test_what_cannot_be_read_is_named(tmp_path, shown_runs):
    (tmp_path / 'empty').mkdir()
    text = Elements(to_html(page_of(compare([shown_runs, tmp_path / 'empty'], curves=True)))).text
    assert 'no run in it' in text


def test_more_runs_than_colours_are_told_apart_by_dashes(comparison):
    many = tuple(replace(comparison.runs[2], name=f'run {i}') for i in range(22))
    rows = tuple({**comparison.rows[2], 'run': run.name} for run in many)
    found = Elements(to_html(page_of(replace(comparison, runs=many, rows=rows, differences={}))))
    swatches = [attrs for tag, attrs in found.tags if attrs.get('class', '').startswith('swatch')][:20]
    assert len({(one['class'], one['style']) for one in swatches}) == 20
    assert 'The first 20 of 22 runs have curves' in found.text
    assert len(PALETTE) == len(set(PALETTE))


def test_of_no_readable_run_there_is_a_page_too(tmp_path):
    (tmp_path / 'empty').mkdir()
    assert 'no run in it' in Elements(to_html(page_of(compare([tmp_path / 'empty'], curves=True)))).text


def test_a_diagnosis_has_its_findings_with_lines_to_copy(shown_runs):
    answer = diagnose(shown_runs / 'broken')
    measured = Experiment('boxes', 0.5, 0.625, 0.01, 40, 'True <boxes> win.')
    other = Experiment('gradients', text='Of each loss.', table={'mask': {'backbone': 0.25, 'neck': None}})
    elements = Elements(to_html(page_of_run(shown_runs / 'broken', replace(answer, experiments=(measured, other)))))
    assert answer.verdict in elements.text
    for finding in answer.findings:
        assert finding.code in elements.text
        assert finding.text in elements.text
    copies = [attrs['data-copy'] for _, attrs in elements.tags if 'data-copy' in attrs]
    pastes = [attrs['id'] for tag, attrs in elements.tags if tag == 'pre']
    assert copies == pastes
    for words in ('+0.125', 'True <boxes> win.', 'gradients', '0.25'):
        assert words in elements.text, words


@pytest.mark.parametrize('command', ['compare', 'diagnose'])
def test_the_commands_write_page_and_figures(run_command, shown_runs, tmp_path, command):
    answer = run_command('mmext', command, shown_runs / 'stock', '--html', 'page.html', '--png', 'figures', status=None)
    assert answer.returncode == (0 if command == 'compare' else 1), answer.stdout
    assert 'data-panel="loss-mask"' in (tmp_path / 'page.html').read_text(encoding='utf-8')
    assert len(list((tmp_path / 'figures').glob('*.pdf'))) == 4


def test_without_plotly_it_says_what_to_install(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, 'plotly.offline', None)
    with pytest.raises(InputError, match=r"--html needs plotly.*pip install 'mmext\[report\]'"):
        to_html(page_of(comparison))


@pytest.mark.parametrize(
    ('names', 'labels'),
    [
        (['one', 'two'], ['one', 'two']),
        (['mask-rcnn_r50-seed0', 'mask-rcnn_r50-seed1'], ['…seed0', '…seed1']),
        (['mask-rcnn_r50', 'mask-rcnn_r50_long'], ['…r50', '…r50_long']),
        (['abcdefghijk1', 'abcdefghijk2'], ['abcdefghijk1', 'abcdefghijk2']),
        (['x' * 90], ['x' * 79 + '…']),
        ([], []),
    ],
)
def test_labels_leave_out_what_all_names_begin_with(names, labels):
    assert _labels(names) == labels


@given(st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_cannot_end_its_script(value):
    text = _embedded({'value': value})
    assert not set('<>&') & set(text)
    assert 'value' in json.loads(text)
