"""MMDetection's RoI extractor for RoI layers of any registry."""

from collections.abc import Mapping

from mmcv import ops
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as StockSingleRoIExtractor
from torch import nn

from mmext.errors import InputError
from mmext.registry import MODELS


def roi_layer_class(kind: str | type) -> type:
    """Class of an RoI layer: a name with a scope (``mmext.RoIPool``) from the registry, one without from ``mmcv.ops``.

    Raises:
        InputError: there is no such layer.
    """
    if not isinstance(kind, str):
        return kind
    found = MODELS.get(kind) if '.' in kind else getattr(ops, kind, None)
    if found is None:
        raise InputError(
            f"roi_layer: there is no {kind!r}. Known are MMCV's layers, such as 'RoIAlign', and 'mmext.RoIPool'."
        )
    return found


@MODELS.register_module()
class SingleRoIExtractor(StockSingleRoIExtractor):
    """MMDetection's SingleRoIExtractor whose ``roi_layer`` may be a registered one: ``dict(type='mmext.RoIPool')``.

    Stock looks a layer's name up among the attributes of ``mmcv.ops``, where a name with a scope cannot be. (It takes a
    class as well, but a config with a class in it cannot be dumped.) Everything else is stock's.

    Args:
        args, kwargs: of MMDetection's SingleRoIExtractor.

    Raises:
        InputError: there is no such layer.
    """

    def build_roi_layers(self, layer_cfg: Mapping, featmap_strides: list[int]) -> nn.ModuleList:
        """One layer for each level of the feature pyramid."""
        return super().build_roi_layers({**layer_cfg, 'type': roi_layer_class(layer_cfg['type'])}, featmap_strides)
