import pytest

from mmext.hooks.class_check import class_mistakes

COUNTS = {'Fiber': 4, 'Fragment': 3, 'Film': 2, 'Unused': 0}


def test_agreement_is_silent():
    assert class_mistakes(('Fiber', 'Fragment', 'Film'), COUNTS, 'a.json') == []


def test_misspelt_class_is_named_with_both_sides():
    first, second = class_mistakes(('Fibre', 'Fragment', 'Film'), COUNTS, 'a.json')
    assert "class 'Fibre' of the config is not in a.json. Did you mean 'Fiber'?" in first
    assert 'The config has: Fibre, Fragment, Film. The file has: Fiber, Fragment, Film, Unused.' in first
    assert "category 'Fiber' of a.json has 4 annotations and is not in the config, so they would be dropped" in second


def test_a_missing_comma_is_named():
    (only,) = class_mistakes('Fiber', COUNTS, 'a.json')
    assert "Add a comma: classes=('Fiber',)" in only


def test_other_order_is_a_mistake():
    (only,) = class_mistakes(('Film', 'Fragment', 'Fiber'), COUNTS, 'a.json')
    assert 'lists the classes as Fiber, Fragment, Film, the config as Film, Fragment, Fiber' in only


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        (
            'model.roi_head.mask_head.num_classes=4',
            r'num_classes` \(4\) in FCNMaskHead.*The train data has: Fiber, Fragment, Film. Set num_classes of every head',
        ),
        (
            "train_dataloader.dataset.metainfo.classes=('Fibre','Fragment','Film')",
            r"class 'Fibre' of the config is not in .*annotations.json. Did you mean 'Fiber'\?",
        ),
        (
            "val_dataloader.dataset.metainfo.classes=('Film','Fragment','Fiber')",
            'lists the classes as Fiber, Fragment, Film, the config as Film, Fragment, Fiber',
        ),
    ],
)
def test_training_stops_before_its_first_iteration(demo_config, tmp_path, option, words):
    from mmengine.runner import Runner

    from mmext.errors import InputError
    from mmext.optim.group_report import load_config

    cfg = load_config(str(demo_config), [option])
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(InputError, match=words):
        runner.train()
    assert runner.iter == 0
