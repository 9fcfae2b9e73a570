import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from mmengine.dataset import Compose
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from mmext.errors import InputError
from mmext.hooks.tensorboard import LAYOUT, TensorboardHook, _picture, spread
from mmext.transforms import LoadMicroscopeImage


def events(work_dir):
    (file,) = Path(work_dir).glob('*/vis_data/events*')
    found = EventAccumulator(str(file), {'images': 0, 'tensors': 0, 'scalars': 0})
    found.Reload()
    return found


def layout_of(found):
    (event,) = found.Tensors('custom_scalars__config__')
    return layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])


def lines_of(names, scalars):
    """The scalars that a chart shows: TensorBoard matches expressions from a name's first letter on."""
    return {scalar for scalar in scalars if any(re.match(name, scalar) for name in names)}


def test_spread():
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(2, 4) == [0, 1]
    assert spread(5, 1) == [0]
    assert spread(5, 0) == spread(0, 4) == []


def test_settings_that_make_no_sense_are_errors():
    with pytest.raises(InputError, match='images=-1, longest=512; allowed: images >= 0'):
        TensorboardHook(images=-1)
    with pytest.raises(InputError, match='longest=0'):
        TensorboardHook(longest=0)


def test_rates_are_one_chart_and_the_same_images_come_back(run_folder, demo_data):
    found = events(run_folder)
    scalars = found.Tags()['scalars']
    charts = {chart.title: list(chart.multiline.tag) for group in layout_of(found).category for chart in group.chart}
    assert charts == {title: names for group in LAYOUT.values() for title, names in group.items()}
    assert lines_of(charts['rate of each part'], scalars) == {
        f'{part}_lr' for part in ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')
    }
    assert lines_of(charts['mask'], scalars) == {'loss_mask', 'val_loss_mask'}
    assert lines_of(charts['total'], scalars) == {'loss', 'val_loss'}
    assert lines_of(charts['AP'], scalars) == {'coco/bbox_mAP', 'coco/segm_mAP'}
    for title, names in charts.items():
        assert lines_of(names, scalars), title
    images = found.Tags()['images']
    assert images == [f'validation/{file.name}' for file in sorted((demo_data / 'val').glob('*.png'))]
    (image,) = found.Images(images[0])
    assert image.width == 2 * image.height
    assert image.step == found.Scalars('val_loss')[0].step


BACKENDS = {
    'visualizer': {
        'type': 'Visualizer',
        'vis_backends': [{'type': 'LocalVisBackend'}, {'type': 'TensorboardVisBackend'}],
    }
}
HOOK = {'tensorboard': {'type': 'mmext.TensorboardHook'}}


def test_what_cannot_be_drawn_is_one_line_and_the_training_goes_on(train_tiny):
    runner, _ = train_tiny(default_hooks=HOOK, validate=True, **BACKENDS)  # its predictions are numbers
    log = ''.join(path.read_text() for path in Path(runner.work_dir).glob('*/*.log'))
    assert log.count('TensorboardHook draws no validation images from here on') == 1
    assert runner.epoch == 2
    assert layout_of(events(runner.work_dir)).category


def test_without_tensorboard_it_does_nothing(train_tiny):
    runner, _ = train_tiny(default_hooks=HOOK, validate=True)
    log = ''.join(path.read_text() for path in Path(runner.work_dir).glob('*/*.log'))
    assert 'TensorboardHook' not in log.replace('mmext.TensorboardHook', '').replace('TensorboardHook   ', '')
    assert not list(Path(runner.work_dir).glob('*/vis_data/events*'))


@pytest.mark.parametrize('wrapped', [False, True])
def test_pictures_of_more_than_8_bits_are_as_bright_as_the_network_sees_them(tmp_path, wrapped):
    pixels = np.arange(200, 3784, dtype=np.uint16).reshape(56, 64)
    tifffile.imwrite(tmp_path / 'a.tif', pixels)
    loader = LoadMicroscopeImage(limits=(200, 3783))
    dataset = SimpleNamespace(pipeline=Compose([loader]))
    found = _picture(SimpleNamespace(dataset=dataset) if wrapped else dataset, str(tmp_path / 'a.tif'))
    assert np.array_equal(found, loader.read(tmp_path / 'a.tif')[..., ::-1])
    assert (found.min(), found.max()) == (0, 255)
    stock = _picture(SimpleNamespace(pipeline=Compose([])), str(tmp_path / 'a.tif'))
    assert stock.max() == 14  # the upper 8 bits
