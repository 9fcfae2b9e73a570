from mmext.metrics.coco_metric import CocoMetric
from mmext.metrics.mask_quality import MaskQualityMetric

__all__ = ['CocoMetric', 'MaskQualityMetric']
