from mmext.heads.min_size_rpn_head import MinSizeRPNHead

__all__ = ['MinSizeRPNHead']
