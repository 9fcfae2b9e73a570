"""bf16 and channels_last on the CPU: inside backbone, neck and heads; all around them sees what it always sees.

A hook on the model and no OptimWrapper, which validation and test have not, and whose context would hold the losses, the
coding of boxes and mmcv's operators too: those have no bf16 kernels on the CPU, and read a channels_last tensor in silence
as if it were a usual one. Its RoIAlign works on one core there; :func:`mmext.heads.roi_align.roi_align` takes its place.
"""

import types
from collections.abc import Callable

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from mmengine.hooks import Hook
from mmengine.utils import apply_to
from torch import nn

from mmext.errors import InputError
from mmext.heads.roi_align import roi_align
from mmext.model import bare_model
from mmext.registry import HOOKS

PRECISIONS = ('auto', 'bf16', 'fp32')
# torch's names of what multiplies in bf16: AVX-512 from Cooper Lake and Zen 4 on, AMX, ARM from v8.6 on, there with SVE
# too. What only converts (avx_ne_convert) or imitates it is not faster.
BF16_CAPABILITIES = ('avx512_bf16', 'amx_bf16', 'bf16', 'sve_bf16')


def processor_has_bf16() -> bool:
    """Whether this processor multiplies bf16 itself."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BF16_CAPABILITIES)


def computing_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Name to module of what a detector computes with by calling it: backbone, neck, heads; of a RoI head those inside."""
    found: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, (nn.ModuleList, BaseRoIHead)):
            found |= {f'{name}.{inner}': part for inner, part in computing_parts(child).items()}
        elif next(child.parameters(), None) is not None:
            found[name] = child
    return found


def compute_in(model: nn.Module, precision: str = 'auto') -> list[str]:
    """Let the parts of a detector compute in a precision, and in channels_last. Parameters and buffers stay as they are.

    A part gives fp32 in the usual layout, but for the backbone, whose features the neck takes as they come, and the neck,
    whose fp32 stays in channels_last. mmcv's operators take fp32 in the usual layout. Convolutions and linear layers are in
    bf16, statistics of norm layers in fp32. RoIAlign is computed by all cores, the same but for the last digits.

    Args:
        model: on any device; on another than the CPU nothing is done.
        precision: ``bf16``, ``fp32``, or ``auto``: bf16 where the processor has it, else fp32. ``bf16`` is slow where it has
            not.

    Returns:
        What was done, as lines to show.

    Raises:
        InputError: another precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f'precision: {precision!r} is none. Allowed: {", ".join(PRECISIONS)}.')
    device = next(model.parameters()).device.type
    if device != 'cpu':
        return [
            f'precision: the model is on {device} and stays as it is; this is for the CPU. In training on a GPU, '
            'optim_wrapper.type=AmpOptimWrapper is for it.'
        ]
    lines = []
    if precision == 'auto':
        precision = 'bf16' if processor_has_bf16() else 'fp32'
        if precision == 'fp32':
            lines.append(
                f'precision: this processor has no bf16 (none of {", ".join(BF16_CAPABILITIES)}), so it stays at fp32.'
            )
    for module in model.modules():
        if type(module) is RoIAlign and module.pool_mode == 'avg':
            _set_forward(module, _aligned)
        elif any(kind.__module__.startswith('mmcv.ops') for kind in type(module).__mro__):
            _set_forward(module, _computing(module.forward.__func__, torch.float32, torch.contiguous_format, _plain))
    parts = computing_parts(model)
    dtype = torch.bfloat16 if precision == 'bf16' else torch.float32
    for name, part in parts.items():
        give = {'backbone': _as_it_is, 'neck': _fp32}.get(name, _plain) if 'neck' in parts else _plain
        _set_forward(part, _computing(part.forward.__func__, dtype, torch.channels_last, give))
    return [*lines, f'precision: {", ".join(parts)} compute in {precision}, channels_last.']


def _set_forward(module: nn.Module, function: Callable) -> None:
    if hasattr(module.forward, 'set_here'):  # a Runner that trains and then tests comes by twice
        return
    function.set_here = True
    # a method, so that a copy of the model has its own
    module.forward = types.MethodType(function, module)


def _computing(
    function: Callable, dtype: torch.dtype, layout: torch.memory_format, give: Callable[[torch.Tensor], torch.Tensor]
) -> Callable:
    """A ``forward`` that computes in a type and a layout, and gives what ``give`` makes of its tensors."""

    def forward(self, *args, **kwargs):
        args, kwargs = apply_to((args, kwargs), _is_float, lambda tensor: _in_layout(tensor, dtype, layout))
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = function(self, *args, **kwargs)
        return apply_to(found, _is_float, give)

    return forward


def _aligned(self: RoIAlign, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    """``forward`` of RoIAlign."""
    return roi_align(features.float(), rois.float(), self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _in_layout(tensor: torch.Tensor, dtype: torch.dtype, layout: torch.memory_format) -> torch.Tensor:
    if dtype == torch.float32:
        tensor = _fp32(tensor)
    return tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # both at once: half the time of one after the other
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.to(dtype, memory_format=torch.contiguous_format)


@HOOKS.register_module()
class CPUPrecisionHook(Hook):
    """Compute in bf16 and channels_last on the CPU: ``default_hooks.cpu_precision.type=mmext.CPUPrecisionHook``.

    In training, validation and test. Weights, gradients, optimizer, checkpoints, losses and batch-norm statistics stay fp32
    in the usual layout, so a run can be resumed with and without. See :func:`compute_in`. A GPU's run stays as it is.

    Args:
        precision: ``auto``, ``bf16`` or ``fp32``.

    Raises:
        InputError: another precision.
    """

    def __init__(self, precision: str = 'auto'):
        if precision not in PRECISIONS:
            raise InputError(f'CPUPrecisionHook: precision {precision!r} is none. Allowed: {", ".join(PRECISIONS)}.')
        self.precision = precision

    def before_run(self, runner) -> None:
        for line in compute_in(bare_model(runner), self.precision):
            runner.logger.info(line)
