from mmext.transforms.load_instance_masks import LoadInstanceMasks

__all__ = ['LoadInstanceMasks']
