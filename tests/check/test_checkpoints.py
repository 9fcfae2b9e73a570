from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmext
from mmext.check.checkpoints import entry_of, fresh_of, frozen_findings, preprocessing_findings, published

CAFFE = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_caffe_fpn_1x_coco/'
CAFFE += 'mask_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859.pth'


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


@pytest.fixture(scope='module')
def r50():
    init_default_scope('mmdet')
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r50_fpn_finetune'))
    return cfg, MODELS.build(cfg.model)


def test_an_entry_is_found_by_url_and_by_the_name_of_a_downloaded_file():
    assert entry_of(CAFFE) == published()[CAFFE]
    assert entry_of(f'checkpoints/{CAFFE.rsplit("/", 1)[-1]}')['Name'] == 'mask-rcnn_r50-caffe_fpn_1x_coco'
    assert entry_of('work_dirs/my/best.pth') is None
    assert entry_of('.pth') is None


def test_weights_that_were_trained_on_other_input(r50):
    cfg, _ = r50
    (finding,) = preprocessing_findings(cfg.model, CAFFE, entry_of(CAFFE))
    assert (finding.code, finding.severity, finding.count) == ('checkpoint-preprocessing', 'warning', 4)
    assert 'mask-rcnn_r50-caffe_fpn_1x_coco' in finding.text
    mended = Config({'model': cfg.model.to_dict()})
    mended.merge_from_dict(
        {
            key: eval(value) if value[0] in '[TF' else value
            for key, value in (line.split('=') for line in finding.remedy.split())
        }
    )
    assert preprocessing_findings(mended.model, CAFFE, entry_of(CAFFE)) == []
    assert preprocessing_findings(cfg.model, cfg.load_from, entry_of(cfg.load_from)) == []


def test_new_tensors_are_known_without_the_file(r50):
    cfg, model = r50
    fresh, findings = fresh_of(model, cfg.load_from, entry_of(cfg.load_from))
    assert findings == []
    assert len(fresh) == 6
    assert {name.split('.')[1] for name in fresh} == {'bbox_head', 'mask_head'}


def test_a_file_is_read(r50, tmp_path):
    _, model = r50
    state = {name: value for name, value in model.state_dict().items() if not name.startswith('neck.')}
    torch.save({'state_dict': state}, tmp_path / 'mine.pth')
    fresh, findings = fresh_of(model, str(tmp_path / 'mine.pth'), None)
    assert findings == []
    assert {name.split('.')[0] for name in fresh} == {'neck'}


@pytest.mark.parametrize(
    ('load_from', 'content', 'code', 'severity'),
    [
        ('{}/none.pth', None, 'checkpoint-missing', 'severe'),
        ('{}/torn.pth', b'PK', 'checkpoint-not-read', 'warning'),
        ('{}/other.pth', {'state_dict': {'fc.weight': torch.zeros(1)}}, 'checkpoint-fits-nothing', 'severe'),
        ('https://example.org/none.pth', None, 'checkpoint-not-read', 'information'),
    ],
)
def test_what_cannot_be_used_is_one_finding(r50, tmp_path, load_from, content, code, severity):
    load_from = load_from.format(tmp_path)
    if isinstance(content, bytes):
        Path(load_from).write_bytes(content)
    elif content:
        torch.save(content, load_from)
    fresh, (finding,) = fresh_of(r50[1], load_from, None)
    assert fresh is None
    assert (finding.code, finding.severity) == (code, severity)
    assert code == 'checkpoint-fits-nothing' or load_from in finding.text


def test_frozen_and_random(r50):
    cfg, model = r50
    assert frozen_findings(model, cfg.model, None) == []  # ImageNet's weights are loaded into the backbone
    assert frozen_findings(model, cfg.model, {'backbone.conv1.weight': 'not in the checkpoint'}) == []
    bare = Config({'model': cfg.model.to_dict()})
    bare.model.backbone.init_cfg = None
    (finding,) = frozen_findings(model, bare.model, None)
    assert (finding.code, finding.severity) == ('frozen-and-random', 'severe')
    assert 'backbone.conv1.weight' in finding.examples
    assert 'frozen_stages=-1' in finding.remedy
    assert frozen_findings(model, bare.model, {}) == []
    assert frozen_findings(model, bare.model, {'backbone.conv1.weight': 'not in the checkpoint'})[0].count == 1
