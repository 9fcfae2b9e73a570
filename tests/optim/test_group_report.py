import mmext
from mmext.optim.group_report import report


def test_mixed_precision_has_the_groups_of_full_precision_without_a_gpu(monkeypatch):
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: False)
    config = str(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    mixed = ['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=float16', 'load_from=None']
    assert report(config, mixed, False, None).rows == report(config, ['load_from=None'], False, None).rows
