# Changes: PointRend with generalized cross-entropy (GCE), q = 0.7, for its coarse mask and its points.
# Why:     the points lie where the outline is least certain, which is where annotations err; GCE bounds what they cost.
# Cost:    as PointRend; both losses have another scale: the healthy band of the mask share does not hold.
# Source:  Kirillov et al. 2020, arXiv:1912.08193; Zhang and Sabuncu 2018, arXiv:1805.07836; the combination is ours.
_base_ = '../point_rend/point-rend_r50-caffe_fpn_finetune_microplastics.py'

model = dict(
    roi_head=dict(
        mask_head=dict(loss_mask=dict(_delete_=True, type='mmext.GCELoss', q=0.7, use_mask=True, loss_weight=1.0)),
        point_head=dict(loss_point=dict(_delete_=True, type='mmext.GCELoss', q=0.7, use_mask=True, loss_weight=1.0))))
