from mmext.datasets.coco_instance import CocoInstanceDataset

__all__ = ['CocoInstanceDataset']
