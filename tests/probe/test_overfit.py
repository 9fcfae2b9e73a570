"""A few images learnt on purpose: sound runs pass or stay open, broken ones are named, and nothing of a run is touched."""

import copy
import math

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmext.analysis.runs import Run, read_run
from mmext.errors import InputError
from mmext.probe import overfit as overfitting
from mmext.probe.overfit import Point, Trial, few_images, judge, outcome, overfit, starting_model
from mmext.probe.subject import config_of
from mmext.probe.weights import Movement

OBJECTS = 30


def trial(means, losses=(0.6, 0.2), mask_moved=0.05, changed=10, mask_rate=0.02):
    """An attempt with a measurement every 10 iterations, and a mask loss that goes from one value to another."""
    points = [Point(10 * i, np.full(OBJECTS, float(mean))) for i, mean in enumerate(means)]
    mask_losses = np.linspace(*losses, points[-1].iteration).tolist()
    moved = {'mask_head': Movement(12, 12, changed, mask_moved)}
    images = np.arange(OBJECTS) % 4
    rates = {'bbox_head': 0.02, 'mask_head': mask_rate}
    return Trial('epoch_8.pth', images, 0.95, points, mask_losses, moved, rates, 100.0)


def test_what_reaches_the_goal_has_passed():
    found = trial([0.3, 0.6, 0.8, 0.86])
    assert outcome(found) == 'passed'
    experiment = judge(found)
    assert not experiment.findings
    assert experiment.gain == pytest.approx(0.56)
    assert 'best 0.860 after 30 of 30 iterations' in experiment.text
    assert 'pipeline, model and loss can learn masks' in experiment.text
    assert 'before any step' in judge(trial([0.9])).text


def test_a_flat_low_curve_is_severe():
    found = trial([0.3, 0.4, *[0.45] * 12], losses=(0.6, 0.55))
    assert outcome(found) == 'stuck'
    (finding,) = judge(found).findings
    assert (finding.code, finding.severity) == ('cannot-overfit', 'severe')
    assert 'the mask IoU is 0.450, from 0.300' in finding.text
    assert 'The mask loss went from 0.5' in finding.text
    assert 'transforms of train_dataloader' in finding.remedy


def test_what_fell_under_training_is_not_saved_by_its_start():
    assert outcome(trial([0.8, 0.5, *[0.4] * 12])) == 'stuck'


def test_a_mask_head_that_hardly_moves_points_to_its_rate():
    (finding,) = judge(trial(np.linspace(0.1, 0.13, 14), losses=(2.0, 1.9), mask_moved=1e-4)).findings
    assert 'The weights of the mask head moved by no more than 0.01%' in finding.text
    assert 'A higher rate' in finding.remedy


def test_a_head_that_nothing_reaches_is_sure():
    (finding,) = judge(trial([0.3, 0.3], changed=0)).findings
    assert finding.confidence == 1
    assert 'to the bit what it was' in finding.text
    (finding,) = judge(trial([0.3, 0.3], losses=(0, 0))).findings
    assert 'the mask loss is always 0' in finding.text


def test_a_loss_that_is_no_number_is_named():
    found = trial([0.3, 0.3])
    (finding,) = judge(Trial(**{**vars(found), 'mask_losses': [*found.mask_losses, math.nan]})).findings
    assert 'the loss is no number after 11 iterations' in finding.text


@pytest.mark.parametrize(
    ('found', 'words'),
    [
        (trial([0.3, 0.31, 0.32]), 'too few to tell'),
        (trial(np.linspace(0.3, 0.7, 14)), 'was still rising'),
        (trial([0.7, *[0.8] * 13]), 'learnt to 84% of what the grid allows'),
    ],
)
def test_what_is_not_sure_is_no_finding(found, words):
    assert outcome(found) == 'open'
    assert not judge(found).findings
    assert words in judge(found).text


@pytest.mark.parametrize('means', [[0.3, 0.9], np.linspace(0.3, 0.7, 14)])
def test_a_low_rate_of_the_mask_head_is_said_without_a_finding(means):
    experiment = judge(trial(means, mask_rate=2e-4))
    assert not experiment.findings
    assert "The mask head's rate is 0.01 times the box head's" in experiment.text
    assert "The mask head's rate" not in judge(trial(means)).text


# ---- images and weights


def test_both_views_show_the_same_images_within_wrappers(shapes_run):
    cfg = config_of(read_run(shapes_run))
    plain = copy.deepcopy(cfg.train_dataloader.dataset)
    other = {**copy.deepcopy(plain), 'ann_file': '/nowhere.json'}
    wrapped = {'type': 'RepeatDataset', 'times': 3, 'dataset': {'type': 'ConcatDataset', 'datasets': [plain, other]}}
    for dataset in (plain, wrapped):
        cfg.train_dataloader.dataset = Config(dataset)._cfg_dict
        sample, narrowed = few_images(cfg, 2)
        shown = {view.get_data_info(place)['img_id'] for view, place in sample.places}
        innermost = narrowed if 'dataset' not in narrowed else narrowed.dataset
        assert ('times' in narrowed) == ('times' in dataset)
        from mmengine.registry import DATASETS

        trained = DATASETS.build(innermost)
        assert {trained.get_data_info(i)['img_id'] for i in range(len(trained))} == shown
        assert len(shown) == 2
    assert len(few_images(cfg, 8)[0].places) == 5  # all that there are


def test_a_run_without_a_checkpoint_begins_as_its_training_did(shapes_run, planted):
    source = shapes_run / 'epoch_1.pth'
    run = planted({'load_from': str(source), 'model.roi_head.mask_head.num_classes': 2})
    (run / 'epoch_1.pth').unlink()
    model, start = starting_model(read_run(run), config_of(read_run(run)))
    assert start == 'load_from (epoch_1.pth)'
    loaded = torch.load(source, weights_only=True)['state_dict']
    state = model.state_dict()
    assert torch.equal(state['backbone.conv1.weight'], loaded['backbone.conv1.weight'])
    assert state['roi_head.mask_head.conv_logits.weight'].shape[0] == 2  # new, as it does not fit
    file = next(run.glob('*/vis_data/config.py'))
    file.write_text(file.read_text().replace(str(source), '/nowhere/a.pth'))
    with pytest.raises(InputError, match=r'load_from is not here: /nowhere/a\.pth'):
        starting_model(read_run(run), config_of(read_run(run)))


def test_a_run_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match='its config cannot be read'):
        overfit(Run(tmp_path), 2, 10)


# ---- real steps, on small images


@TRANSFORMS.register_module()
class MasksOfOthers(BaseTransform):
    """Masks go round among the objects of an image, otherwise each time."""

    def transform(self, results):
        masks = results['gt_masks']
        results['gt_masks'] = masks[np.random.permutation(len(masks))]
        return results


SMALL = {
    'train_dataloader.dataset.pipeline.2.scale': (96, 96),
    'val_dataloader.dataset.pipeline.1.scale': (96, 96),
    'model.train_cfg.rpn_proposal.nms_pre': 50,
    'model.train_cfg.rpn_proposal.max_per_img': 50,
    'model.train_cfg.rcnn.sampler.num': 32,
}


@pytest.fixture
def small(planted):
    """A work_dir with small images, a fresh mask predictor, and more changes of the config."""

    def make(options=None):
        run = planted({**SMALL, **(options or {})})
        checkpoint = torch.load(run / 'epoch_1.pth', weights_only=True)
        generator = torch.Generator().manual_seed(0)
        weights = checkpoint['state_dict']['roi_head.mask_head.conv_logits.weight']
        weights.normal_(0, 0.01, generator=generator)
        torch.save(checkpoint, run / 'epoch_1.pth')
        return run

    return make


def test_masks_are_learnt_and_the_run_is_as_it_was(small, monkeypatch):
    found = []
    monkeypatch.setattr(overfitting, 'judge', lambda trial: found.append(trial) or judge(trial))
    run, steps = small(), []
    files = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    state = torch.get_rng_state()
    overfit(read_run(run), 2, 600, lambda *step: steps.append(step), most=20)
    learnt = found[0]
    assert learnt.iterations == 20
    assert [point.iteration for point in learnt.points] == [0, 10, 20]
    assert learnt.best.mean > learnt.points[0].mean + 0.1
    assert np.mean(learnt.mask_losses[-5:]) < 0.9 * np.mean(learnt.mask_losses[:5])
    assert {path: path.read_bytes() for path in run.rglob('*') if path.is_file()} == files
    assert torch.equal(torch.get_rng_state(), state)
    assert steps[0][0] == 'overfitting 2 images'
    file = next(run.glob('*/vis_data/config.py'))
    cfg = Config.fromfile(file)
    cfg.train_dataloader.dataset.pipeline.insert(-1, {'type': 'MasksOfOthers'})
    cfg.dump(file)
    overfit(read_run(run), 2, 600, most=20)
    assert found[1].best.mean < learnt.best.mean - 0.1


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'optim_wrapper.paramwise_cfg.custom_keys.mask_head': {'lr_mult': 0.0}}, 'to the bit what it was'),
        ({'model.roi_head.mask_head.loss_mask.loss_weight': 0.0}, 'the mask loss is always 0'),
    ],
)
def test_a_mask_head_that_is_not_trained_is_named(small, options, words):
    (finding,) = overfit(read_run(small(options)), 2, 600, most=10).findings
    assert finding.code == 'cannot-overfit'
    assert words in finding.text
