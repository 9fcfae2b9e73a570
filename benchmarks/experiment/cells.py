"""What the experiment trains: cells, settings and seeds as data. docs/experiment.md says why.

A cell is one question's data and starting point; a setting is what differs between its runs; a run is a setting with a seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

RECIPE = 'mask-rcnn_r18_fpn_finetune_differential-10x'
LOW = 2e-3
# those from 8e-2 on were added as the one before was the best in core
RATES = (2e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2, 0.16, 0.32)
SEEDS = (0, 1, 2, 3, 4)
FEW_SEEDS = SEEDS[:3]
# other images than those of the counted seeds
TUNING_SEEDS = (10, 11)
# of `mmext demo-data --seed`: the validation part, and the test part
VALIDATION_SEED, TEST_SEED = 20, 30
VALIDATION_IMAGES, TEST_IMAGES, CORE_TEST_IMAGES = 60, 200, 500
# films that the rate is chosen on in the droplets cell; the others of its training part are trained on for that
VALIDATION_VIDEOS = ('video3', 'video7')

BEST, BEST_TEN, TUNING = 'uniform-best', 'differential-best', 'tuning-'
_OPTIMIZER = 'optim_wrapper.optimizer'
_KEYS = 'optim_wrapper.paramwise_cfg.custom_keys'
_MASK = 'model.roi_head.mask_head'
# what MMDetection leaves fresh where the number of classes differs
LAST_LAYERS = ('fc_cls', 'fc_reg', 'conv_logits')
# of all runs: the last checkpoint counts, a run ends early for a loss that is no number only, and nothing is drawn
ALWAYS = {
    'default_hooks.checkpoint.save_best': None,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.loss_guard.spike': None,
    **{f'default_hooks.{name}.type': 'mmext.NoHook' for name in ('diagnosis', 'predictions', 'tensorboard')},
    'visualizer.vis_backends': [{'type': 'LocalVisBackend'}],
    # on a CPU the same numbers but for their last digits, in less time; a GPU's runs stay as they are
    'default_hooks.cpu_precision': {'type': 'mmext.CPUPrecisionHook', 'precision': 'fp32'},
    'val_cfg': {'_delete_': True, 'type': 'ValLoop'},
}


@dataclass(frozen=True)
class Setting:
    """``options``: dotted config key to value. ``budget``: multiple of the cell's epochs; ``heads_first``: share of them in
    which the heads are trained alone; ``noise``: share of the mask pixels that are turned round in the annotations."""

    name: str
    options: Mapping[str, object]
    budget: int = 1
    heads_first: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class Cell:
    """``fresh``: custom keys of the tensors that start fresh; ``removed``: beginnings of names that are taken out of the
    source checkpoint to that end. ``tuning``: seeds of the runs that choose the base rate of its setting of ``TUNED`` among
    ``rates``; none where it has none. ``every``: epochs between the validations of the curves; ``options``: of all its
    runs."""

    name: str
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...] = SEEDS
    tuning: tuple[int, ...] = ()
    rates: tuple[float, ...] = RATES
    images: int = 60
    epochs: int = 8
    every: int = 2
    validation_images: int = VALIDATION_IMAGES
    test_images: int = TEST_IMAGES
    fresh: tuple[str, ...] = LAST_LAYERS
    removed: tuple[str, ...] = ()
    droplets: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def tuned(self) -> str | None:
        """Name of its setting whose rate is chosen."""
        return next((setting.name for setting in self.settings if setting.name in TUNED), None)


@dataclass(frozen=True)
class Run:
    """A setting of a cell with a seed. ``is_tuning``: it chooses the uniform rate, on the validation part."""

    cell: Cell
    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        return f'{self.cell.name}_{self.setting.name}_seed{self.seed}'

    @property
    def is_tuning(self) -> bool:
        return self.setting.name.startswith(TUNING)

    @property
    def validation_images(self) -> int:
        """The rate is chosen on all of the validation part, the curves have its first half."""
        return self.cell.validation_images if self.is_tuning else self.cell.validation_images // 2

    @property
    def epochs(self) -> int:
        return self.cell.epochs * self.setting.budget


def sgd(lr: float, multiples: Mapping[str, float]) -> dict[str, object]:
    """Options of the recipe's SGD at a base rate, with the multiples of some custom keys and 1 for the rest."""
    keys = {key: {'lr_mult': multiple} for key, multiple in multiples.items()}
    return {f'{_OPTIMIZER}.lr': lr, _KEYS: {'_delete_': True, **keys}}


def uniform(name: str, lr: float, budget: int = 1) -> Setting:
    return Setting(name, sgd(lr, {}), budget)


def differential(multiple: float, lr: float = LOW, name: str | None = None) -> Setting:
    """S0's ratios: its one option is the heads' multiple, the RPN has 5 in any case. Its name has a base that is not LOW."""
    name = name or f'differential-{multiple:g}x' + ('' if lr == LOW else f'-{lr:g}')
    return Setting(name, sgd(lr, {'rpn_head': 5, 'roi_head': multiple}))


def fresh_only(fresh: Sequence[str]) -> Setting:
    return Setting('fresh-10x', sgd(LOW, dict.fromkeys(fresh, 10)))


def masks(name: str, noise: float = 0.0, **options: object) -> Setting:
    """S0's ratios at the low base rate, and a change of the mask branch."""
    return Setting(name, {**differential(10).options, **options}, noise=noise)


_S1 = {
    _OPTIMIZER: {'_delete_': True, 'type': 'Adam', 'lr': 1e-3, 'weight_decay': 0.0},
    _KEYS: {
        '_delete_': True,
        'backbone': {'lr_mult': 0.1},
        'neck': {'lr_mult': 0.1},
        'rpn_head': {'lr_mult': 0.2},
        'roi_head': {'lr_mult': 1},
    },
}
_BACKBONE_TENTH = Setting('backbone-tenth', _S1)
# S0's ratios at S0's own base, 5e-3 for a batch of 2
_S0 = differential(10, 1e-2)
# settings whose base rate is chosen by tuning runs, and how one of a rate is made
TUNED = {BEST: uniform, BEST_TEN: lambda name, lr: differential(10, lr, name)}
_BEST = Setting(BEST, {})
_GCE = {f'{_MASK}.loss_mask': {'_delete_': True, 'type': 'mmext.GCELoss', 'q': 0.7, 'use_mask': True, 'loss_weight': 1.0}}


def _grid(side: int) -> dict[str, object]:
    extractor = 'model.roi_head.mask_roi_extractor.roi_layer.output_size'
    return {extractor: side // 2, 'model.train_cfg.rcnn.mask_size': side}


def _other(name: str, fresh: Sequence[str] = LAST_LAYERS, also: Sequence[Setting] = (), **rest) -> Cell:
    """A cell with the three settings that each of the other questions needs."""
    settings = (*also, _BEST, differential(10), fresh_only(fresh))
    return Cell(name, settings, tuning=TUNING_SEEDS[:1], rates=RATES[-4:], fresh=tuple(fresh), **rest)


_DROPLET = {'_delete_': True, 'classes': ('droplet',), 'palette': [(0, 114, 178)]}
# 14 iterations an epoch
_DROPLETS = _other(
    'droplets',
    images=55,
    epochs=9,
    every=3,
    test_images=17,
    droplets=True,
    options={
        'model.roi_head.bbox_head.num_classes': 1,
        'model.roi_head.mask_head.num_classes': 1,
        'train_dataloader.dataset.metainfo': _DROPLET,
        'val_dataloader.dataset.metainfo': _DROPLET,
        'train_dataloader.dataset.pipeline.2.scale': (512, 512),
        'val_dataloader.dataset.pipeline.1.scale': (512, 512),
    },
)
CELLS = (
    Cell(
        'core',
        (
            uniform('uniform-low', LOW),
            _BEST,
            differential(5),
            differential(10),
            differential(15),
            _BACKBONE_TENTH,
            Setting('staged', {**_S1, 'model.backbone.frozen_stages': -1, 'find_unused_parameters': True}, heads_first=0.25),
            fresh_only(LAST_LAYERS),
            uniform('uniform-low-3x', LOW, budget=3),
        ),
        tuning=TUNING_SEEDS,
        test_images=CORE_TEST_IMAGES,
    ),
    # added after core's rates had been seen: both sides with a rate of their own
    Cell(
        'tuned',
        (Setting(BEST_TEN, {}), _S0),
        tuning=TUNING_SEEDS,
        rates=(5e-3, 1e-2, 2e-2, 4e-2),
        test_images=CORE_TEST_IMAGES,
    ),
    # 120 iterations, too: an epoch has 4
    _other('15-images', images=15, epochs=30, every=6),
    # one low rate for all on wholly or partly new heads is what the sources describe
    _other('8-fresh', (*LAST_LAYERS, 'upsample'), [uniform('uniform-low', LOW)], removed=('roi_head.mask_head.upsample.',)),
    _other('new-heads', ('bbox_head', 'mask_head'), [uniform('uniform-low', LOW)], removed=('roi_head.',)),
    _DROPLETS,
    # added after core's rates and those of droplets had been seen: what is good on made data, taken as it is
    replace(
        _DROPLETS,
        name='transfer',
        settings=(_BACKBONE_TENTH, differential(10, 2e-2), _S0),
        tuning=(),
    ),
    # added after the two before had been seen: does it matter to who trains longer?
    replace(
        _DROPLETS,
        name='longer',
        settings=(uniform('uniform-0.16', 0.16), _BACKBONE_TENTH, _S0, differential(10)),
        seeds=FEW_SEEDS,
        tuning=(),
        epochs=27,
        every=9,
    ),
    # on the test images of core, whose differential-10x is the 28 here and the bce-0 below
    Cell('mask-size', (masks('14', **_grid(14)), masks('56', **_grid(56))), seeds=FEW_SEEDS, test_images=CORE_TEST_IMAGES),
    Cell(
        'noise',
        (
            masks('gce-0', **_GCE),
            masks('bce-15', 0.15),
            masks('gce-15', 0.15, **_GCE),
            masks('bce-30', 0.3),
            masks('gce-30', 0.3, **_GCE),
        ),
        seeds=FEW_SEEDS,
        test_images=CORE_TEST_IMAGES,
    ),
    Cell(
        'steep',
        tuple(differential(15, lr) for lr in (5e-3, 1e-2, 2e-2)),
        seeds=SEEDS[:2],
        test_images=CORE_TEST_IMAGES,
    ),
)
# runs of another cell that stand for a setting
SAME = {
    ('tuned', BEST): ('core', BEST),
    ('transfer', BEST): ('droplets', BEST),
    ('transfer', 'differential-10x'): ('droplets', 'differential-10x'),
    ('mask-size', '28'): ('core', 'differential-10x'),
    ('noise', 'bce-0'): ('core', 'differential-10x'),
}


def tuning_runs(cells: Sequence[Cell]) -> list[Run]:
    return [
        Run(cell, TUNED[cell.tuned](f'{TUNING}{rate:g}', rate), seed)
        for cell in cells
        for seed in cell.tuning
        for rate in cell.rates
    ]


def counted_runs(cells: Sequence[Cell]) -> list[Run]:
    """Seed by seed, so that a part of them is a whole comparison of fewer seeds."""
    return [Run(cell, setting, seed) for cell in cells for seed in cell.seeds for setting in cell.settings]


def options_of(run: Run, rate: float | None = None) -> dict[str, object]:
    """All that a run changes in the recipe, but for paths.

    Args:
        rate: of a setting of ``TUNED``.
    """
    setting = TUNED[run.setting.name](run.setting.name, rate) if run.setting.name in TUNED else run.setting
    options = {**ALWAYS, **run.cell.options, **setting.options, 'randomness.seed': run.seed}
    options |= {'train_cfg.max_epochs': run.epochs, 'train_cfg.val_interval': min(run.cell.every, run.epochs)}
    if run.is_tuning:
        options['train_cfg.val_interval'] = run.epochs
    if setting.heads_first:
        stages = [{'epochs': max(1, round(setting.heads_first * run.epochs)), 'train': 'heads'}, {'train': 'all'}]
        options['default_hooks.staged_training'] = {'type': 'mmext.StagedTrainingHook', 'stages': stages}
    return options


def rehearsal(cells: Sequence[Cell]) -> list[Cell]:
    """Every setting once, on eight images for two epochs: to see that all of it runs. It counts for nothing."""
    return [
        replace(
            cell,
            seeds=cell.seeds[:1],
            tuning=cell.tuning[:1],
            rates=(cell.rates[0], cell.rates[-1]),
            images=8,
            epochs=2,
            every=2,
            validation_images=8,
            test_images=min(8, cell.test_images),
        )
        for cell in cells
    ]
