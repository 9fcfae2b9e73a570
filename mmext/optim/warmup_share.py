"""Warm-up whose length is a share of the run."""

import numbers

from mmengine.optim import LinearLR

from mmext.errors import InputError
from mmext.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupShareLR(LinearLR):
    """Linear warm-up over the first ``share`` of the run, so that ``train_cfg.max_epochs`` alone moves it.

    ``param_scheduler = [dict(type='mmext.WarmupShareLR', share=0.05), ...]``. MMEngine's ``LinearLR`` ends at a fixed
    iteration: on 50 images most of a schedule_1x training is warm-up.

    Args:
        optimizer: optimizer or optimizer wrapper.
        share: part of the run that is warm-up, 0 ≤ share < 1. A share that comes to fewer than two iterations is none.
        start_factor: factor on the rate at the first iteration.
        end: iterations of the whole run; the Runner fills it in.
        by_epoch: must be False, as the Runner fills ``end`` in epochs otherwise.

    Raises:
        InputError: share or start_factor out of range, or by_epoch not False.
    """

    def __init__(
        self,
        optimizer,
        *args,
        share: float = 0.05,
        start_factor: float = 0.001,
        end: int,
        by_epoch: bool = True,
        **kwargs,
    ):
        if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= share < 1:
            raise InputError(f'WarmupShareLR: share is {share!r}; it must be at least 0 and less than 1.')
        if not isinstance(start_factor, numbers.Real) or not 0 < start_factor <= 1:
            raise InputError(f'WarmupShareLR: start_factor is {start_factor!r}; it must be above 0 and at most 1.')
        if by_epoch:
            raise InputError('WarmupShareLR: by_epoch is True; warm-up counts iterations. Set by_epoch=False.')
        steps = round(share * end)
        if steps < 2:
            steps, start_factor = 2, 1.0
        super().__init__(optimizer, *args, start_factor=start_factor, end=steps, by_epoch=False, **kwargs)
