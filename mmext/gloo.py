"""Several processes on a machine without a GPU: ``configs/_base_/cpu_ddp.py`` calls ``start_where_launched``."""

import os
import sys

_LAUNCHED = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


def launched(environment: dict[str, str], arguments: list[str]) -> bool:
    """Whether a launcher has started this process and the script was told so.

    Args:
        environment: of the process; torchrun and ``torch.distributed.launch`` set the five variables.
        arguments: of the script. Without ``--launcher pytorch`` MMEngine's Runner takes itself for a single process: a
            group would then share out the images and leave every process's weights its own.
    """
    told = any(argument.split('=')[-1] == 'pytorch' for argument in arguments)
    return told and all(name in environment for name in _LAUNCHED)


def start_where_launched() -> None:
    """Start the gloo group of a ``--launcher pytorch`` training that finds no CUDA device; else do nothing.

    MMEngine's own start calls ``torch.cuda.set_device`` and so fails on a CPU build of torch. Its Runner leaves a group that
    is there as it is.
    """
    if not launched(os.environ, sys.argv[1:]):
        return
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available() and not dist.is_initialized():
        dist.init_process_group('gloo')
