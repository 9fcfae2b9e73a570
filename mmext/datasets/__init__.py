from mmext.datasets.coco_instance import CocoInstanceDataset, coco_datasets

__all__ = ['CocoInstanceDataset', 'coco_datasets']
