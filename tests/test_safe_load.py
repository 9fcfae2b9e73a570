import io
import pickle
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmext.safe_load import allow_mmengine_checkpoints


@pytest.fixture(autouse=True)
def allowed():
    allow_mmengine_checkpoints()


def there_and_back(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Reduced:
    """Pickles as a call of ``function`` on ``arguments``."""

    def __init__(self, function, *arguments):
        self.recipe = (function, arguments)

    def __call__(self, *arguments):
        raise NotImplementedError  # pickle asks that what it calls is callable

    def __reduce__(self):
        return self.recipe


def load_forged(**state):
    """Load a HistoryBuffer whose pickled state is the arrays with ``state`` added."""
    arrays = {'max_length': 10, '_log_history': np.ones(1), '_count_history': np.ones(1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HistoryBuffer, '__getstate__', lambda self: arrays | state)
        file = io.BytesIO()
        torch.save(HistoryBuffer(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_history_buffers_come_back_whole():
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    buffer.__getstate__()  # MMEngine leaves the statistics in the buffer's own dict
    found = there_and_back({'train/loss': buffer, 'number': np.float64(2.5), 'ints': np.arange(3)})
    assert type(found['train/loss']) is HistoryBuffer
    assert found['train/loss'].mean() == 2.0
    assert found['train/loss'].statistics('max') == 3.0
    assert found['number'] == 2.5
    assert found['ints'].tolist() == [0, 1, 2]
    found['train/loss'].update(5.0)
    again = there_and_back(found['train/loss'])
    assert again.mean() == 3.0


def test_foreign_call_is_refused(tmp_path):
    with pytest.raises(UnpicklingError, match=r'posix.system|os.system'):
        there_and_back(Reduced(__import__('os').system, f'touch {tmp_path}/ran'))
    assert not list(tmp_path.iterdir())


def test_getattr_reaches_nothing_but_the_statistics():
    walk = Reduced(getattr, Reduced(getattr, HistoryBuffer, 'mean'), '__globals__')  # on its way to builtins.exec
    for statistic in (walk, Reduced(getattr, HistoryBuffer, 'register_statistics'), Reduced(getattr, np.ndarray, 'min')):
        with pytest.raises(UnpicklingError, match='checkpoint refused: it holds getattr'):
            load_forged(statistics_methods={'mean': statistic})


def test_a_walk_to_exec_would_run_and_is_refused(tmp_path):
    """From a statistic that MMEngine's own files name, by getattr alone, to builtins.exec: as real as such a file can be."""
    module = Reduced(getattr, Reduced(getattr, HistoryBuffer, 'mean'), '__globals__')
    builtins = Reduced(Reduced(getattr, module, '__getitem__'), '__builtins__')
    run = Reduced(Reduced(getattr, builtins, '__getitem__'), 'exec')
    crafted = Reduced(run, f'open({str(tmp_path / "ran")!r}, "w").close()')
    pickle.loads(pickle.dumps(crafted))
    assert (tmp_path / 'ran').exists()
    (tmp_path / 'ran').unlink()
    with pytest.raises(UnpicklingError, match='checkpoint refused: it holds getattr'):
        load_forged(statistics_methods={'mean': crafted})
    assert not list(tmp_path.iterdir())


def test_the_class_keeps_its_statistics():
    before = dict(HistoryBuffer._statistics_methods)
    with pytest.raises(UnpicklingError, match=r'HistoryBuffer with statistics of its own \(mean\)'):
        load_forged(statistics_methods={'mean': Reduced(getattr, HistoryBuffer, 'min')})
    assert HistoryBuffer._statistics_methods == before


def test_unknown_state_is_refused():
    with pytest.raises(UnpicklingError, match=r"unknown state \['mean'\]"):
        load_forged(mean=1)


def test_arrays_of_objects_are_refused():
    with pytest.raises(UnpicklingError, match="dtype 'O8'"):
        there_and_back(np.array([None], dtype=object))
