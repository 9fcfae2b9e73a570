import json
import threading

import pytest

from mmext.analysis import watch
from mmext.errors import InputError

CONFIG = 'train_cfg = dict(max_epochs=3)\nlog_processor = dict(window_size=1)\n'
END = {'text': 'Training ended: all 3 epochs are done.'}


def line(i, mask):
    return json.dumps({'loss': mask, 'loss_mask': mask, 'epoch': i // 10 + 1, 'step': i + 1}) + '\n'


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The log of a run that has just started."""
    monkeypatch.setattr(watch, 'INTERVAL', 0.005)
    folder = tmp_path / '20260101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'config.py').write_text(CONFIG)
    return folder / 'scalars.json'


def append(log, text):
    with log.open('a') as file:
        file.write(text)


def test_it_says_what_changes_and_ends_with_the_run(tmp_path, log):
    """A thread writes the log of a run whose loss explodes, each part once what is before it has been said."""
    said = [threading.Event(), threading.Event()]

    def train():
        append(log, ''.join(line(i, 1 / (i + 1)) for i in range(10)))
        said[0].wait(10)
        append(log, line(10, 0.1)[:12])  # half a line, as a process writes it
        append(log, line(10, 0.1)[12:] + ''.join(line(i, 0.1) for i in range(11, 15)))  # nothing new in it
        append(log, ''.join(line(i, 5.0) for i in range(15, 20)))
        said[1].wait(10)
        append(log, ''.join(line(i, 5.0) for i in range(20, 30)))
        (tmp_path / '20260101_000000/run_end.json').write_text(json.dumps(END))

    thread = threading.Thread(target=train)
    thread.start()
    found = []
    for diagnosis in watch.verdicts(tmp_path):
        found.append((diagnosis.status, diagnosis.facts['ended']))
        if diagnosis.status == 'not-enough-evidence':
            said[0].set()
        if diagnosis.status == 'problem':
            said[1].set()
    thread.join()
    assert found[0] == ('not-enough-evidence', False)
    assert found[-1] == ('problem', True)
    # each once, whatever the moments at which the log was looked at; the end is always said
    assert [status for status, ended in found if not ended] == ['not-enough-evidence', 'problem']


def test_a_run_that_is_over_is_said_once(tmp_path, log):
    append(log, ''.join(line(i, 1.0) for i in range(30)))
    (tmp_path / '20260101_000000/run_end.json').write_text(json.dumps(END))
    assert len(list(watch.verdicts(tmp_path))) == 1


def test_a_run_without_run_end_is_over_when_its_length_is_done_and_nothing_comes(tmp_path, log):
    append(log, ''.join(line(i, 1.0) for i in range(30)))
    assert [diagnosis.facts['ended'] for diagnosis in watch.verdicts(tmp_path)] == [True]


def test_a_new_start_is_waited_for_and_the_earlier_is_not_taken_for_it(tmp_path, log):
    append(log, ''.join(line(i, 1.0) for i in range(30)))
    (tmp_path / '20260101_000000/run_end.json').write_text(json.dumps(END))
    second = tmp_path / '20260102_000000' / 'vis_data'
    second.mkdir(parents=True)
    (second / 'config.py').write_text(CONFIG)

    def train():
        append(second / 'scalars.json', line(0, 0.5))
        (second.parent / 'run_end.json').write_text(json.dumps(END))

    timer = threading.Timer(0.05, train)
    timer.start()
    (diagnosis, *more) = watch.verdicts(tmp_path)
    timer.join()
    assert diagnosis.facts['log_lines'] == 1
    assert len(more) <= 1  # the log may be seen before the record of the end


def test_no_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match='there is no such folder'):
        next(watch.verdicts(tmp_path / 'no'))
