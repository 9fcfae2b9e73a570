"""The narrow allow-list with which torch >= 2.6 reads MMEngine's checkpoints while ``weights_only=True`` stays on.

A checkpoint of MMEngine carries its message hub: ``HistoryBuffer`` objects with numpy arrays, and the buffer's statistics
as ``getattr(HistoryBuffer, 'mean')``. Allow-listing the real ``builtins.getattr`` would let a crafted file reach
``builtins.exec``. So every name that the file may use is served by a stand-in that does this one job and nothing else.
"""

from functools import cache
from pickle import UnpicklingError

HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'
STATISTICS = ('min', 'max', 'current', 'mean')


def _refuse(what: str) -> UnpicklingError:
    return UnpicklingError(
        f'checkpoint refused: it holds {what}, which MMEngine does not write. Nothing of it was run. '
        'Load only checkpoints from a source you trust.'
    )


@cache
def _stand_ins() -> list[tuple[object, str]]:
    import numpy as np
    from mmengine.logging import HistoryBuffer

    numeric = [np.dtype(name) for name in ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')]

    class LoadedHistoryBuffer(HistoryBuffer):
        """Takes the arrays of a pickled HistoryBuffer and refuses any other state; then it is a HistoryBuffer."""

        def __setstate__(self, state: dict) -> None:
            state = dict(state)
            statistics = state.pop('statistics_methods', {})
            # HistoryBuffer's own __setstate__ would write these into the class, for all buffers of the process.
            if any(statistics[name] is not getattr(HistoryBuffer, name, None) for name in statistics):
                raise _refuse(f'a HistoryBuffer with statistics of its own ({", ".join(map(str, statistics))})')
            unknown = set(state) - {'max_length', '_log_history', '_count_history'}
            if unknown:
                raise _refuse(f'a HistoryBuffer with unknown state {sorted(map(str, unknown))}')
            self.__dict__.update(state)
            self._set_default_statistics()
            self.__class__ = HistoryBuffer

    def only_history_methods(owner: object, name: object) -> object:
        if owner is not LoadedHistoryBuffer or name not in STATISTICS:
            raise _refuse(f'getattr({getattr(owner, "__name__", owner)!r}, {name!r})')
        return getattr(HistoryBuffer, name)

    def only_ndarray(subtype: object, shape: object, dtype: object) -> object:
        if subtype is not np.ndarray or shape != (0,) or dtype not in (b'b', 'b'):
            raise _refuse(f'an array of type {subtype!r}')
        return np.ndarray.__new__(np.ndarray, (0,), 'b')

    def only_numeric_dtype(name: object, align: object = False, copy: object = True) -> object:
        if name not in [dtype.str[1:] for dtype in numeric]:
            raise _refuse(f'an array of dtype {name!r}')
        return np.dtype(name, bool(align), bool(copy))

    def only_number(dtype: object, data: object) -> object:
        if dtype not in numeric or not isinstance(data, bytes):
            raise _refuse(f'a numpy scalar of dtype {dtype!r}')
        return np.frombuffer(data, dtype)[0]

    served = [
        (LoadedHistoryBuffer, HISTORY_BUFFER),
        (only_history_methods, 'builtins.getattr'),
        (only_history_methods, '__builtin__.getattr'),
        (np.ndarray, 'numpy.ndarray'),
        (only_numeric_dtype, 'numpy.dtype'),
    ]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        served += [(only_ndarray, f'{module}._reconstruct'), (only_number, f'{module}.scalar')]
    # the unpickler sets the state (byte order) of a dtype only when it knows the dtype's class
    served += [(type(dtype), f'numpy.dtypes.{type(dtype).__name__}') for dtype in numeric]
    return served


def _load_from_url(url: str, map_location=None, model_dir: str | None = None) -> dict:
    """MMEngine's download, by the first process alone, but with ``weights_only=True``, which torch.hub leaves off."""
    from mmengine.dist import barrier, is_main_process
    from torch.hub import load_state_dict_from_url

    if not is_main_process():
        barrier()
    checkpoint = load_state_dict_from_url(url, model_dir, map_location, weights_only=True)
    if is_main_process():
        barrier()
    return checkpoint


def allow_mmengine_checkpoints() -> None:
    """Let checkpoints that MMEngine wrote be read with ``weights_only=True``, files and http(s) addresses alike.

    Does nothing on torch < 2.6, whose ``torch.load`` unpickles without restriction unless told otherwise.
    """
    import torch
    from mmengine.runner import CheckpointLoader

    if tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6):
        torch.serialization.add_safe_globals(_stand_ins())
        CheckpointLoader.register_scheme(('http://', 'https://'), _load_from_url, force=True)
