"""Ground truth of instances, each mask in the form that loses nothing and costs least."""

from functools import partial

from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.mask import PolygonMasks

from mmext.analysis.mask_window import to_rle
from mmext.data.coco_file import has_outline
from mmext.errors import InputError
from mmext.registry import TRANSFORMS
from mmext.structures import WindowMasks


@TRANSFORMS.register_module()
class LoadInstanceMasks(LoadAnnotations):
    """Boxes, labels and masks: polygons stay polygons; an image with an RLE or crowd mask gets windows of bitmaps.

    In the place of ``LoadAnnotations(with_bbox=True, with_mask=True)``. Stock's ``poly2mask=True`` draws every polygon at
    full image size; its ``poly2mask=False`` turns every RLE instance into an ignore region in silence. Adds to the
    results what stock adds: ``gt_bboxes`` (N, 4), ``gt_bboxes_labels`` (N,), ``gt_ignore_flags`` (N,) and ``gt_masks``,
    ``PolygonMasks`` or ``mmext.structures.WindowMasks``, a kind of ``BitmapMasks``, of N masks.

    Args:
        with_bbox, with_label, kwargs: of LoadAnnotations.
        polygons: whether polygons may stay polygons; False gives windows of bitmaps for every image, which
            ``soft_mask_target`` needs.

    Raises:
        InputError: an instance without a segmentation or with no polygon of three points; an RLE of another size than
            its image, or whose runs do not fit into it. Names the image and, with mmext.CocoInstanceDataset, the
            annotation's id.
    """

    def __init__(self, with_bbox: bool = True, with_label: bool = True, polygons: bool = True, **kwargs):
        if 'poly2mask' in kwargs:
            raise InputError('LoadInstanceMasks: there is no poly2mask; each mask keeps the form that it has in the file.')
        super().__init__(with_bbox=with_bbox, with_label=with_label, with_mask=True, poly2mask=True, **kwargs)
        self.polygons = polygons

    def _load_masks(self, results: dict) -> None:
        height, width = results['ori_shape']
        for position, instance in enumerate(results.get('instances', [])):  # none in an image to predict
            if not has_outline(instance.get('mask')) and not instance['ignore_flag']:
                found = 'it is missing' if 'mask' not in instance else repr(instance['mask'])[:60]
                raise InputError(
                    f'{_where(results, position)} has no segmentation with an outline: {found}. Mask R-CNN needs one for '
                    'every object: export the annotations with polygons or RLE.'
                )
            mask = instance.get('mask') or []
            if isinstance(mask, dict) and list(mask.get('size', (height, width))) != [height, width]:
                raise InputError(
                    f'{_where(results, position)} has an RLE mask of size {list(mask["size"])} (height, width), but the '
                    f'image file is {[height, width]}. Export the annotations for these very files.'
                )
            instance['mask'] = mask
        masks = self._process_masks(results)
        if self.polygons and all(isinstance(mask, list) for mask in masks):
            results['gt_masks'] = PolygonMasks(masks, height, width)
        else:
            rles = [to_rle(mask, height, width) for mask in masks]
            results['gt_masks'] = WindowMasks.from_rles(rles, height, width, name_of=partial(_where, results))


def _where(results: dict, position: int) -> str:
    instance = results['instances'][position]
    name = f'annotation {instance["id"]}' if 'id' in instance else f'object {position + 1} with box {instance["bbox"]}'
    return f'image {results.get("img_id")} ({results.get("img_path")}): {name}'
