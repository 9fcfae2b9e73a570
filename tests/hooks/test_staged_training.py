import pytest
import torch
from mmengine.hooks import Hook

from mmext.errors import InputError
from mmext.hooks.staged_training import Stage, is_trained, length_mistakes, patience_remarks, read_stages, stage_of

HEADS_THEN_ALL = [{'epochs': 2, 'train': 'heads'}, {'train': 'all', 'lr_mult': 0.1}]
COSINE = {'type': 'CosineAnnealingLR', 'eta_min_ratio': 0.01, 'by_epoch': True, 'convert_to_iter_based': True}


class Keep(Hook):
    """The weights at the beginning of every epoch and at the end."""

    priority = 'LOWEST'

    def __init__(self):
        self.weights = []

    def before_train_epoch(self, runner):
        self.weights.append({name: weight.clone() for name, weight in runner.model.state_dict().items()})

    after_train = before_train_epoch


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def train(train_tiny, stages, **arguments):
    keep = Keep()
    hooks = {
        'staged_training': {'type': 'mmext.StagedTrainingHook', 'stages': stages},
        'group_lr': {'type': 'mmext.GroupLRHook'},
        'resume': {'type': 'mmext.ResumeHook'},
        'checkpoint': {'type': 'mmext.SafeCheckpointHook', 'interval': 1},
    }
    arguments = {'epochs': 4, 'batch_size': 2, 'norm': True, **arguments}
    runner, lines = train_tiny(default_hooks=hooks, custom_hooks=[keep], **arguments)
    return runner, lines, keep.weights


def test_what_is_frozen_stays_to_the_bit_and_what_is_thawed_moves(train_tiny):
    _, lines, weights = train(train_tiny, [{'epochs': 2, 'train': ['mask_head']}, {'train': 'all'}])
    for epoch in (0, 1):
        assert moved(weights[epoch], weights[epoch + 1]) == {'mask_head.weight', 'mask_head.bias'}
    for epoch in (2, 3):  # running statistics too
        assert moved(weights[epoch], weights[epoch + 1]) == set(weights[0])
    assert [line['stage'] for line in lines] == [1] * 6 + [2] * 6


def test_norm_layers_of_trained_parts_keep_counting(train_tiny):
    _, _, weights = train(train_tiny, [{'train': 'heads'}], epochs=1)
    assert 'neck.running_mean' in moved(*weights)
    assert 'backbone.weight' not in moved(*weights)


def test_rates_of_a_stage_keep_the_ratios_and_the_schedule(train_tiny):
    settings = {'param_scheduler': [COSINE], 'custom_keys': {'mask_head': {'lr_mult': 10}}}
    _, plain, _ = train(train_tiny, [{'train': 'all'}], **settings, folder='plain')
    _, lines, _ = train(train_tiny, HEADS_THEN_ALL, **settings)
    factors = [1] * 6 + [0.1] * 6
    assert [line['backbone_lr'] for line in lines] == pytest.approx(
        [f * p['lr'] for f, p in zip(factors, plain, strict=True)]
    )
    assert [line['mask_head_lr'] for line in lines] == pytest.approx([10 * line['backbone_lr'] for line in lines])


def test_an_absolute_rate_is_the_base_rate(train_tiny):
    _, lines, _ = train(train_tiny, [{'epochs': 2, 'train': 'heads', 'lr': 0.005}, {'train': 'all', 'lr': 0.001}])
    assert [line['lr'] for line in lines] == pytest.approx([0.005] * 6 + [0.001] * 6)


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_a_resumed_run_is_in_the_right_stage(train_tiny, tmp_path, epoch):
    stages = [
        {'epochs': 1, 'train': 'heads'},
        {'epochs': 2, 'train': ['mask_head'], 'lr_mult': 0.5},
        {'train': 'all', 'lr': 0.001},
    ]
    settings = {'param_scheduler': [COSINE], 'custom_keys': {'mask_head': {'lr_mult': 10}}}
    calm, plain, _ = train(train_tiny, stages, **settings)
    checkpoint = str(tmp_path / 'run' / f'epoch_{epoch}.pth')
    resumed, lines, _ = train(train_tiny, stages, **settings, resume=True, load_from=checkpoint)
    assert [line['mask_head_lr'] for line in lines] == pytest.approx([line['mask_head_lr'] for line in plain[3 * epoch :]])
    assert [line['stage'] for line in lines] == [line['stage'] for line in plain[3 * epoch :]]
    assert not moved(calm.model.state_dict(), resumed.model.state_dict())


def test_new_multipliers_after_a_resume_keep_the_stages_factor(train_tiny, tmp_path):
    train(train_tiny, HEADS_THEN_ALL, param_scheduler=[COSINE])
    checkpoint = str(tmp_path / 'run' / 'epoch_3.pth')
    settings = {'param_scheduler': [COSINE], 'custom_keys': {'mask_head': {'lr_mult': 15}}}
    _, lines, _ = train(train_tiny, HEADS_THEN_ALL, **settings, resume=True, load_from=checkpoint)
    _, fresh, _ = train(train_tiny, HEADS_THEN_ALL, **settings, folder='fresh')
    assert [line['mask_head_lr'] for line in lines] == pytest.approx([line['mask_head_lr'] for line in fresh[9:]])


def test_changes_are_announced_with_what_is_trained(train_tiny):
    from pathlib import Path

    runner, _, _ = train(train_tiny, HEADS_THEN_ALL)
    log = Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    assert 'Stage 1 of 2, heads: epochs 1 to 2, 13 parameters trained, 12 frozen, rates as planned (base rate now' in log
    assert 'Stage 2 of 2, all: epochs 3 to 4, 25 parameters trained, 0 frozen, rates × 0.1 (base rate now' in log
    assert log.count('Stage ') == 2


def test_words_of_matterport():
    names = ['backbone.conv1.weight', *(f'backbone.layer{n}.0.conv1.weight' for n in (1, 2, 3, 4)), 'neck.w', 'rpn_head.w']
    trained = {word: sum(is_trained(name, word) for name in names) for word in ('heads', '5+', '4+', '3+', 'all')}
    assert trained == {'heads': 2, '5+': 3, '4+': 4, '3+': 5, 'all': 7}
    assert is_trained('roi_head.mask_head.convs.0.weight', 'heads')


def test_the_stage_is_a_function_of_the_epoch():
    stages = read_stages([{'epochs': 2, 'train': 'heads'}, {'epochs': 1, 'train': '4+'}, {'train': 'all'}])
    assert [stage_of(stages, epoch).number for epoch in range(6)] == [1, 1, 2, 3, 3, 3]
    assert stages[1] == Stage(2, 2, 2, '4+')


@pytest.mark.parametrize(
    ('stages', 'words'),
    [
        ([], r'stages is \[\]; it must be a list such as'),
        ([3], r'stage 1 is 3; it must be a dict'),
        ([{'train': 'head'}], r"stage 1: train is 'head'; allowed are heads, 5\+, 4\+, 3\+, all, or a list of parts"),
        ([{'train': []}], r'stage 1: train is \[\]'),
        ([{'train': 'all', 'epoch': 3}], r"stage 1: unknown 'epoch'. Did you mean 'epochs'\?"),
        ([{'train': 'all', 'epochs': 0}], r'stage 1: epochs is 0; it must be a whole number above 0'),
        ([{'train': 'heads'}, {'train': 'all'}], r'stage 1 has no epochs, so it overlaps with stage 2'),
        ([{'train': 'all', 'lr_mult': 0}], r'stage 1: lr_mult is 0; it must be a number above 0'),
        ([{'train': 'all', 'lr': 1, 'lr_mult': 1}], r'stage 1 has lr and lr_mult; one of them decides'),
    ],
)
def test_wrong_stages_are_refused(stages, words):
    with pytest.raises(InputError, match=words):
        read_stages(stages)


def test_every_mistake_is_named_at_once():
    with pytest.raises(InputError, match=r"(?s)several mistakes.*train is 'x'.*epochs is -1"):
        read_stages([{'train': 'x', 'epochs': 1}, {'train': 'all', 'epochs': -1}])


def test_stages_must_fill_the_run():
    two = read_stages([{'epochs': 2, 'train': 'heads'}, {'epochs': 2, 'train': 'all'}])
    assert length_mistakes(two, 4) == []
    assert 'a gap' in length_mistakes(two, 5)[0]
    assert 'Set train_cfg.max_epochs=4' in length_mistakes(two, 3)[0]
    assert 'stage 2 would begin after 2 epochs, the run has 2' in length_mistakes(read_stages(HEADS_THEN_ALL), 2)[0]


def test_what_was_frozen_at_the_start_cannot_be_thawed(train_tiny):
    def frozen(model):
        model.backbone.requires_grad_(False)
        return model

    with pytest.raises(
        InputError, match=r'stage 2 \(all\) trains backbone.weight, backbone.bias, frozen when the optimizer'
    ):
        train(train_tiny, HEADS_THEN_ALL, change=frozen)


@pytest.mark.parametrize(
    ('stages', 'words'),
    [
        ([{'train': ['mask_haed']}], "stage 1: the model has no part 'mask_haed'. Did you mean 'mask_head'"),
        ([{'train': '4+'}], r"stage 1: '4\+' is for a ResNet, and the model has no layer3"),
    ],
)
def test_stages_that_the_model_has_not_are_refused(train_tiny, stages, words):
    with pytest.raises(InputError, match=words):
        train(train_tiny, stages)


def test_iterations_have_no_stages(train_tiny):
    with pytest.raises(InputError, match='use an epoch-based loop'):
        train(train_tiny, HEADS_THEN_ALL, train_cfg={'by_epoch': False, 'max_iters': 4})


def test_patience_that_would_end_the_run_within_a_stage_is_said():
    stages = read_stages([{'epochs': 10, 'train': 'heads'}, {'epochs': 25, 'train': '4+'}, {'train': 'all'}])
    remarks = patience_remarks(stages, [{'monitor': 'val_loss', 'patience': 10}], 1)
    assert len(remarks) == 1
    assert 'val_loss may end the run within stage 2 (4+)' in remarks[0]
    assert remarks[0].endswith('default_hooks.early_stopping.patience=26')
    assert patience_remarks(stages, [{'monitor': 'val_loss', 'patience': 26}], 1) == []
    # with every third epoch validated, epochs 11 to 35 have eight: 12, 15, ... 33
    assert patience_remarks(stages, [{'monitor': 'val_loss', 'patience': 9}], 3) == []
    assert len(patience_remarks(stages, [{'monitor': 'val_loss', 'patience': 8}], 3)) == 1


def test_the_boundary_of_patience_is_that_of_a_real_run(train_tiny):
    stop = {'type': 'EarlyStoppingHook', 'monitor': 'size', 'rule': 'greater', 'min_delta': 0.0}
    stages = [{'epochs': 3, 'train': ['mask_head']}, {'epochs': 3, 'train': ['backbone']}, {'train': 'all'}]
    for patience in (3, 4):
        warned = patience_remarks(read_stages(stages), [{'monitor': 'size', 'patience': patience}], 1)
        runner, _ = train_tiny(
            default_hooks={
                'staged_training': {'type': 'mmext.StagedTrainingHook', 'stages': stages},
                'early_stopping': {**stop, 'patience': patience},
            },
            epochs=9,
            validate=True,
            lr=1e-7,
            folder=f'patience{patience}',
        )
        assert (runner.epoch == 6) == bool(warned) == (patience == 3)


def test_a_stage_begins_with_its_patience_unused(train_tiny):
    class Counts(Hook):
        priority = 'LOWEST'
        seen: tuple = ()

        def after_val(self, runner):
            stop = next(hook for hook in runner.hooks if type(hook).__name__ == 'EarlyStoppingHook')
            self.seen += ((stop.wait_count, runner.param_schedulers[0].num_bad_epochs),)

    counts = Counts()
    stop = {'type': 'EarlyStoppingHook', 'monitor': 'size', 'rule': 'greater', 'patience': 9, 'min_delta': 0.0}
    stages = {'type': 'mmext.StagedTrainingHook', 'stages': [{'epochs': 3, 'train': ['mask_head']}, {'train': 'all'}]}
    plateau = {'type': 'ReduceOnPlateauLR', 'monitor': 'size', 'rule': 'greater', 'patience': 9}
    train_tiny(
        default_hooks={'staged_training': stages, 'early_stopping': stop, 'counts': counts},
        epochs=5,
        validate=True,
        lr=1e-7,
        param_scheduler=[plateau],
    )
    # the first is the best; the plateau does not count the last epoch of a run
    assert counts.seen == ((0, 0), (1, 1), (2, 2), (1, 1), (2, 1))
