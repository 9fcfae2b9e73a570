"""MMEngine's local files, written whole or not at all. Apart from atomic_file.py, which the command line loads: to import
MMEngine takes half a second."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmext import atomic_file

ATOMIC = 'mmext.atomic'


@register_backend(ATOMIC, force=True)
class AtomicBackend(LocalBackend):
    """MMEngine's local files, written with :func:`write_atomically`: ``backend_args=dict(backend='mmext.atomic')``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        atomic_file.write_atomically(obj, filepath)
