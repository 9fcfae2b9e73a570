from mmext.structures.window_masks import Window, WindowMasks

__all__ = ['Window', 'WindowMasks']
