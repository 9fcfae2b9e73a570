from mmext.transforms.crop_around_instance import CropAroundInstance
from mmext.transforms.load_instance_masks import LoadInstanceMasks
from mmext.transforms.load_microscope_image import LoadMicroscopeImage

__all__ = ['CropAroundInstance', 'LoadInstanceMasks', 'LoadMicroscopeImage']
