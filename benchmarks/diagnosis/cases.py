"""What the bench of `mmext diagnose` plants, and runs without a fault: changes of a recipe, and the codes that name them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_KEYS = 'optim_wrapper.paramwise_cfg.custom_keys'
_TRAIN, _VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'
_EMPTY_CROPS = [
    {'type': 'LoadImageFromFile'},
    {'type': 'mmext.LoadInstanceMasks'},
    {'type': 'mmext.BackgroundCrop'},
    {'type': 'Resize', 'scale': (256, 256), 'keep_ratio': True},
    {'type': 'RandomFlip', 'prob': [0.3, 0.3], 'direction': ['horizontal', 'vertical']},
    {'type': 'PackDetInputs'},
]
_OUR_HOOKS = ['resume', 'class_check', 'small_objects', 'group_lr', 'loss_share', 'loss_guard', 'run_end', 'diagnosis']
# MMDetection's own validation, log and hooks: what a run records that knows nothing of mmext
_STOCK = {
    'val_cfg': {'_delete_': True, 'type': 'ValLoop'},
    'val_evaluator': {
        '_delete_': True,
        'type': 'CocoMetric',
        'metric': ['bbox', 'segm'],
        'ann_file': '{data}/val/annotations.json',
    },
    'log_processor': {'_delete_': True, 'type': 'LogProcessor', 'window_size': 50, 'by_epoch': True},
} | {f'default_hooks.{name}': {'_delete_': True, 'type': 'mmext.NoHook'} for name in _OUR_HOOKS}

# for a family of which there is no recipe with them
_DIFFERENTIAL = {
    'optim_wrapper.optimizer': {'_delete_': True, 'type': 'SGD', 'lr': 2e-3, 'momentum': 0.9, 'weight_decay': 5e-4},
    _KEYS: {'_delete_': True, 'rpn_head': {'lr_mult': 5}, 'roi_head': {'lr_mult': 10}},
}


def _classes(*names: str) -> dict[str, object]:
    heads = {f'model.roi_head.{head}_head.num_classes': len(names) for head in ('bbox', 'mask')}
    return heads | {f'{part}.metainfo': {'_delete_': True, 'classes': names} for part in (_TRAIN, _VAL)}


@dataclass(frozen=True)
class Case:
    """A run of the bench.

    ``codes``: findings that name its fault, none for a run without one. ``changes`` of the recipe: dotted key to value, with
    ``{data}`` for the folder of its images. ``kinds``: which made data; ``epochs``, and a validation every so many. ``on``:
    the run whose weights it is planted on, without a training; ``refuses``: the training must not start, and say this word.
    """

    name: str
    codes: tuple[str, ...] = ()
    changes: Mapping[str, object] = field(default_factory=dict)
    recipe: str = 'mask-rcnn_r18_fpn_finetune_differential-10x'
    kinds: str = 'particles'
    epochs: int = 8
    every: int = 4
    on: str | None = None
    refuses: str | None = None


HEALTHY = (
    Case('healthy'),
    Case('healthy, one rate', recipe='mask-rcnn_r18_fpn_finetune_uniform-5x'),
    Case('healthy, PointRend', changes=_DIFFERENTIAL, recipe='point-rend_r18_fpn_finetune'),
    Case('healthy, compact', changes=_classes('Fragment', 'Film'), kinds='compact', every=1),
    Case('healthy, longer', epochs=12, every=2),
    Case('healthy, stock parts', changes=_STOCK),
)
TRAINED = (
    Case('mask rate 100x too low', ('mask-rate-low',), {f'{_KEYS}.mask_head': {'lr_mult': 0.1}}),
    Case('rate too high', ('rate-too-high', 'loss-exploding'), {'optim_wrapper.optimizer.lr': 0.1}),
    Case(
        'heads frozen',
        ('part-not-training', 'part-unchanged', 'part-without-gradient'),
        {'custom_hooks': [{'type': 'mmext.FrozenHeads'}]},
    ),
    Case('mask loss weight 0.05', ('mask-loss-weight',), {'model.roi_head.mask_head.loss_mask.loss_weight': 0.05}),
    Case('masks eroded', ('masks-narrow',), {f'{_TRAIN}.ann_file': '{data}/train/eroded.json'}),
    Case('masks shifted', ('masks-moved',), {f'{_TRAIN}.ann_file': '{data}/train/shifted.json'}),
    Case('masks swapped', ('masks-of-other-objects',), {f'{_TRAIN}.ann_file': '{data}/train/swapped.json'}),
    Case(
        'five images',
        ('few-images', 'masks-learnt-by-heart'),
        {f'{_TRAIN}.ann_file': '{data}/train/five.json'},
        epochs=60,
        every=30,
    ),
    Case('few iterations', ('few-iterations',), epochs=1, every=1),
    Case(
        'warm-up too long',
        ('warm-up-unfinished',),
        {'param_scheduler': [{'type': 'LinearLR', 'start_factor': 0.001, 'by_epoch': False, 'begin': 0, 'end': 1000}]},
    ),
    Case(
        '14x14 grid on fibers',
        ('mask-grid-coarse',),
        {
            **_classes('Fiber'),
            'model.roi_head.mask_roi_extractor.roi_layer.output_size': 7,
            'model.train_cfg.rcnn.mask_size': 14,
        },
        kinds='fibers',
    ),
    Case('crops without objects', ('no-positive-rois', 'training-images-empty'), {f'{_TRAIN}.pipeline': _EMPTY_CROPS}),
)
UNTRAINED = (
    Case('threshold 0.9', ('mask-threshold',), {'model.test_cfg.rcnn.mask_thr_binary': 0.9}, on='healthy'),
    Case(
        'val annotated otherwise',
        ('annotated-differently', 'masks-wide'),
        {f'{_VAL}.ann_file': '{data}/val/widened.json', 'val_evaluator.ann_file': '{data}/val/widened.json'},
        on='healthy',
    ),
    Case(
        'class order permuted',
        ('classes-mixed-up',),
        {
            f'{_VAL}.ann_file': '{data}/val/permuted.json',
            'val_evaluator.ann_file': '{data}/val/permuted.json',
            # it would refuse the run
            'default_hooks.class_check': {'_delete_': True, 'type': 'mmext.NoHook'},
        },
        on='healthy',
    ),
    Case('class misspelt', changes={f'{_TRAIN}.metainfo.classes': ('Fiber', 'Fragmnt', 'Film')}, refuses='Fragmnt'),
    Case('lr_mult of no part', changes={f'{_KEYS}.mask_haed': {'lr_mult': 10}}, refuses='mask_haed'),
)
CASES = HEALTHY + TRAINED + UNTRAINED
