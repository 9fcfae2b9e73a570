# Owns: num_classes, class_names, metainfo, data_root, train_pipeline, test_pipeline, the data loaders and evaluators.
# COCO instance files in the layout data_root/{train,val}/annotations.json with the images beside each. Batch 2 (S3).
# The classes of a child stand in the child, once: num_classes, class_names, and metainfo of both data sets.
dataset_type = 'mmext.CocoInstanceDataset'
data_root = '{{fileDirname}}/../../../data/coco_instance/'
image_scale = (1333, 800)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadInstanceMasks'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    # after Resize, as in MMDetection: evaluation is in the original image's pixels
    dict(type='mmext.LoadInstanceMasks'),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='train/annotations.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='val/annotations.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='mmext.CocoMetric', ann_file=data_root + 'val/annotations.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
