from mmext.transforms.load_instance_masks import LoadInstanceMasks
from mmext.transforms.load_microscope_image import LoadMicroscopeImage

__all__ = ['LoadInstanceMasks', 'LoadMicroscopeImage']
