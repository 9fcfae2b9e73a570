from mmext.loops.loss_val_loop import LossValLoop

__all__ = ['LossValLoop']
