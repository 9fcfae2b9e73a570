# Fiber, Fragment, Film (S3). MMDetection counts no background: S3's four classes are three here, labels from 0.
_base_ = './coco_instance_finetune.py'

num_classes = 3
class_names = ('Fiber', 'Fragment', 'Film')
metainfo = dict(classes=class_names, palette=[(0, 114, 178), (230, 159, 0), (0, 158, 115)])
data_root = '{{fileDirname}}/../../../data/microplastics/'

train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val/annotations.json')
test_evaluator = val_evaluator
