# Owns: model_wrapper_cfg. For several processes on a machine without a GPU, beside a recipe or a config of your own:
#   _base_ = ['./my.py', __import__('mmext').base('cpu_ddp')]
# Then `mim train mmdet CONFIG --launcher pytorch --gpus 2` starts two processes. See docs/scale.md.
# Where no launcher started the process, or where there is a GPU, the next line does nothing.
__import__('mmext.gloo').gloo.start_where_launched()

# as MMEngine wraps a model, but for the device: a CPU has no number
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False, find_unused_parameters=False)
