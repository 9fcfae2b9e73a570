"""MMDetection's CocoDataset with words where it fails in silence or with an internal error."""

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.dataset import BaseDataset

from mmext.data.coco_file import count_by_class, read_coco
from mmext.errors import InputError
from mmext.registry import DATASETS


@DATASETS.register_module()
class CocoInstanceDataset(CocoDataset):
    """COCO instances; each carries its annotation ``id``, so that an error can name it.

    Arguments as for ``mmdet.CocoDataset``. After loading, ``counts`` has the file's category names, each with its number of
    annotations (mmext.ClassCheckHook holds it against the config).

    Raises:
        InputError: an annotation file that is missing, truncated or not COCO; no image left to train on, where
            MMDetection answers "need at least one array to concatenate".
    """

    def COCOAPI(self, ann_file: str) -> COCO:  # noqa: N802 - the name by which CocoDataset calls its reader
        checked = read_coco(ann_file)
        self.counts = count_by_class(checked)
        coco = COCO()
        coco.dataset = {
            'images': checked.images,
            'annotations': checked.annotations,
            'categories': checked.categories,
        }
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def parse_data_info(self, raw_data_info: dict) -> dict:
        info = super().parse_data_info({**raw_data_info, 'raw_ann_info': []})
        # one at a time: the base class drops annotations and does not say which
        for annotation in raw_data_info['raw_ann_info']:
            kept = super().parse_data_info({**raw_data_info, 'raw_ann_info': [annotation]})['instances']
            info['instances'] += [{**instance, 'id': annotation['id']} for instance in kept]
        return info

    def filter_data(self) -> list[dict]:
        kept = super().filter_data()
        if not kept:
            theirs = ', '.join(f'{name} ({count} annotations)' for name, count in self.counts.items()) or 'no category'
            raise InputError(
                f'{self.ann_file}: none of its {len(self.data_list)} images is left to train on. '
                f'The config has the classes: {", ".join(self.metainfo["classes"])}. The file has: {theirs}. '
                f'Images are kept when they have an object of one of these classes and pass filter_cfg={self.filter_cfg}. '
                'Set metainfo=dict(classes=(...,)) of the data set to the names in the file.'
            )
        return kept


def coco_datasets(dataset) -> list[BaseDataset]:
    """The COCO data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if hasattr(dataset, 'datasets'):
        return [inner for part in dataset.datasets for inner in coco_datasets(part)]
    if hasattr(dataset, 'dataset'):
        return coco_datasets(dataset.dataset)
    return [dataset] if hasattr(dataset, 'cat2label') else []
