import pytest


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
