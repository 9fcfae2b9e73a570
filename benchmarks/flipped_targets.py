"""Wrong mask pixels for benchmarks/variants.py: in the training targets, or in the annotation file."""

import json
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask

from mmext.heads.fcn_mask_head import FCNMaskHead
from mmext.registry import MODELS


@MODELS.register_module(name='FlippedTargetsMaskHead')
class FlippedTargetsMaskHead(FCNMaskHead):
    """A mask head that learns from targets of which a share of the pixels is the contrary, drawn anew for each RoI.

    Args:
        share: of the pixels, 0 to 1.
    """

    def __init__(self, *args, share: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.share = share

    def get_targets(self, *args) -> torch.Tensor:
        targets = super().get_targets(*args)
        if not self.training:
            return targets
        return torch.where(torch.rand_like(targets) < self.share, 1 - targets, targets)


def flip_annotations(source: Path, target: Path, share: float, seed: int) -> None:
    """Copy a COCO file with a share of the pixels of each instance's box turned round, as RLEs; boxes stay."""
    document, rng = json.loads(source.read_text()), np.random.default_rng(seed)
    sizes = {image['id']: (image['height'], image['width']) for image in document['images']}
    for annotation in document['annotations']:
        height, width = sizes[annotation['image_id']]
        polygons = coco_mask.frPyObjects(annotation['segmentation'], height, width)
        mask = coco_mask.decode(coco_mask.merge(polygons))
        x, y, w, h = annotation['bbox']
        box = np.s_[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))]
        mask[box] ^= rng.random(mask[box].shape) < share
        rle = coco_mask.encode(np.asfortranarray(mask))
        annotation['segmentation'] = {'size': rle['size'], 'counts': rle['counts'].decode()}
    target.write_text(json.dumps(document))
