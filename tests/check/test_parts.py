from dataclasses import replace

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmext.check import report
from mmext.check.parts import data_parts
from mmext.data.coco_file import CocoFile


def part_of(folder, *pipeline):
    dataset = {'type': 'CocoDataset', 'data_root': str(folder), 'ann_file': 'ann.json', 'pipeline': list(pipeline)}
    return data_parts(Config({'train_dataloader': {'dataset': dataset}}))[0]


@pytest.mark.parametrize(
    ('types', 'loading'),
    [
        ((), None),
        (('LoadImageFromFile', 'LoadAnnotations'), 'LoadImageFromFile'),
        (('Resize', 'mmdet.LoadImageFromNDArray'), 'mmdet.LoadImageFromNDArray'),
        (('ReadSlide', 'LoadAnnotations'), 'ReadSlide'),
    ],
)
def test_the_transform_that_loads_the_image(tmp_path, types, loading):
    found = part_of(tmp_path, *({'type': name} for name in types)).loading
    assert (found and found.type) == loading


def test_the_remedy_for_turned_images_ends_the_finding(tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', exif=tag)
    coco = CocoFile(tmp_path / 'ann.json', [{'id': 1, 'file_name': 'a.jpg', 'width': 96, 'height': 64}], [], [])
    for settings, codes in (({}, ['exif-rotation']), ({'color_type': 'color_ignore_orientation'}, [])):
        answer = report.CheckReport('my.py')
        part = replace(part_of(tmp_path, {'type': 'LoadImageFromFile', **settings}), coco=coco)
        report._look([part], [], report._Check(answer), lambda what: None)
        assert [finding.code for finding in answer.findings] == codes
        assert answer.crashes == []
