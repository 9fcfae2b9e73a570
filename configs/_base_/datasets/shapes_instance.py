# The made shapes of `mmext demo-data data/shapes --kind shapes`, which the shipped source model has learnt.
_base_ = './demo_instance.py'

num_classes = 4
class_names = ('Disk', 'Rod', 'Star', 'Crescent')
metainfo = dict(classes=class_names, palette=[(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)])
data_root = '{{fileDirname}}/../../../data/shapes/'

train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val/annotations.json')
test_evaluator = val_evaluator
