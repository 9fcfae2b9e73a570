import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def shapes_run(tmp_path_factory) -> Path:
    """A work_dir whose checkpoint segments its data well: the shipped source model and made shapes."""
    from mmengine.config import Config

    from mmext.data.demo import KINDS, write_part
    from mmext.data.own_data import write_config

    folder = tmp_path_factory.mktemp('shapes')
    for number, part in enumerate(('train', 'val')):
        list(write_part(folder / part, 5, (0, number), KINDS['shapes']))
    parts = [(folder / part / 'annotations.json', folder / part) for part in ('train', 'val')]
    write_config(*parts, 'mask-rcnn_r18_fpn_finetune', folder / 'config.py')
    work_dir = folder / 'run'
    logs = work_dir / '20260101_000000' / 'vis_data'
    logs.mkdir(parents=True)
    Config.fromfile(folder / 'config.py').dump(logs / 'config.py')
    line = {'loss': 1.0, 'loss_mask': 0.2, 'loss_cls': 0.8, 'epoch': 1, 'step': 10}
    (logs / 'scalars.json').write_text(json.dumps(line) + '\n')
    source = Path(__file__).parents[2] / 'configs' / 'demo' / 'mask-rcnn_r18_fpn_source.pth'
    shutil.copy(source, work_dir / 'epoch_1.pth')
    return work_dir


@pytest.fixture
def planted(shapes_run, tmp_path):
    """A copy of that work_dir with a change of its config, and of each annotation of one part by a function of (mask)."""
    from mmdet.structures.mask import encode_mask_results
    from mmengine.config import Config
    from pycocotools import mask as coco_mask

    def plant(options=None, part='val', change=None, classes=None):
        run = tmp_path / 'run'
        shutil.copytree(shapes_run, run)
        file = next(run.glob('*/vis_data/config.py'))
        cfg = Config.fromfile(file)
        cfg.merge_from_dict(options or {})
        dataset = cfg[f'{part}_dataloader'].dataset
        annotations = Path(dataset.get('data_root') or '', dataset.ann_file)
        document = json.loads(annotations.read_text())
        sizes = {image['id']: (image['height'], image['width']) for image in document['images']}
        for one in document['annotations']:
            if change is not None:
                mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(one['segmentation'], *sizes[one['image_id']])))
                rle = encode_mask_results([change(mask)])[0]
                one['bbox'] = coco_mask.toBbox(rle).tolist()
                one['segmentation'] = {**rle, 'counts': rle['counts'].decode()}
            one['category_id'] = (classes or {}).get(one['category_id'], one['category_id'])
        dataset.ann_file = str(tmp_path / 'annotations.json')
        Path(dataset.ann_file).write_text(json.dumps(document))
        cfg.dump(file)
        return run

    return plant
