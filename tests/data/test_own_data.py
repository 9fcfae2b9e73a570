import copy
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from mmengine.config import Config

from mmext.data.own_data import with_num_classes, write_config
from mmext.data.split import copy_path
from mmext.errors import InputError


def parts_of(folder):
    return [(folder / part / 'annotations.json', folder / part) for part in ('train', 'val')]


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def most_objects(path):
    return max(Counter(annotation['image_id'] for annotation in json.loads(path.read_text())['annotations']).values())


@pytest.fixture
def own(demo_data, tmp_path):
    folder = tmp_path / 'my data'
    shutil.copytree(demo_data, folder, ignore=shutil.ignore_patterns('*.py'))
    return folder


def test_written_config_says_what_the_files_say(own):
    lines = write_config(*parts_of(own), 'mask-rcnn_r50_fpn_finetune', own / 'my.py', batch_size=4)
    cfg = Config.fromfile(own / 'my.py')
    assert cfg.class_names == ('Fiber', 'Fragment', 'Film')
    assert cfg.train_dataloader.dataset.metainfo.classes == cfg.class_names
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 3
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.optimizer.lr) == (4, 0.0001)
    assert cfg.train_dataloader.dataset.ann_file == str(own / 'train/annotations.json')
    assert cfg.val_evaluator.ann_file == str(own / 'val/annotations.json')
    assert cfg.model.test_cfg.rcnn.max_per_img == 100
    assert any('Fiber' in line for line in lines)
    out = own / 'my.py'
    assert [line.strip() for line in lines[-4:]] == [
        f'Wrote {out}. Next:', f'mmext check {out} --images --show work_dirs/truth', f'mmext groups {out} --schedule',
        f'mim train mmdet {out}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'optimizer', 'rate', 'words'),
    [
        ('mask-rcnn_r50_fpn_finetune', 'Adam', 0.0001, "Adam's step does not follow"),
        ('mask-rcnn_r50_fpn_finetune_differential-10x', 'SGD', 0.002, '0.001 * 4 / 2 = 0.002'),
    ],
)
def test_the_rate_for_another_batch(own, name, optimizer, rate, words):
    write_config(*parts_of(own), name, own / 'my.py', batch_size=4)
    found = Config.fromfile(own / 'my.py').optim_wrapper.optimizer
    assert (found.type, found.lr) == (optimizer, rate)
    assert words in (own / 'my.py').read_text()


def test_a_class_that_one_part_lacks_may_be_a_slip(own):
    edit(own / 'val/annotations.json', lambda document: document.update(annotations=document['annotations'][:3]))
    for part in ('train', 'val'):
        edit(own / f'{part}/annotations.json', lambda document: document['categories'].append({'id': 9, 'name': 'Flim'}))
    lines = write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py')
    assert "  Flim has no object to train on. Did you mean 'Film'?" in lines


def test_config_moves_with_its_folder(own, tmp_path):
    write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py')
    assert str(tmp_path) not in (own / 'my.py').read_text()
    moved = own.rename(tmp_path / 'elsewhere')
    cfg = Config.fromfile(moved / 'my.py')
    assert cfg.train_dataloader.dataset.ann_file == str(moved / 'train/annotations.json')


def test_a_quote_in_the_folders_name_is_no_trouble(own, tmp_path):
    odd = own.rename(tmp_path / "Ann's data")
    write_config(*parts_of(odd), 'mask-rcnn_r18_fpn_finetune', odd / 'my.py')
    assert Config.fromfile(odd / 'my.py').train_dataloader.dataset.ann_file == str(odd / 'train/annotations.json')


def test_more_classes_than_the_recipe_can_be_drawn(own):
    from mmdet.visualization import DetLocalVisualizer  # noqa: F401 - the palette's reader comes with it
    from mmdet.visualization.palette import get_palette

    for part in ('train', 'val'):
        more = [{'id': 10 + i, 'name': f'class{i}'} for i in range(4)]
        edit(own / part / 'annotations.json', lambda d, more=more: d['categories'].extend(more))
    write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py')
    metainfo = Config.fromfile(own / 'my.py').val_dataloader.dataset.metainfo
    assert len(metainfo.classes) == 7
    assert len(get_palette(metainfo.palette, 7)) == 7


def test_what_training_drops_is_said(own):
    edit(own / 'train/annotations.json', lambda d: d['annotations'][2].update(area=0))
    lines = write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py')
    assert any('MMDetection drops 1' in line and 'annotation 3' in line for line in lines)
    edit(own / 'train/annotations.json', lambda d: [a.update(area=0) for a in d['annotations']])
    with pytest.raises(InputError, match='would drop every annotation'):
        write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py')


def test_caps_follow_the_most_objects(own):
    def crowd(document):
        first = document['annotations'][0]
        document['annotations'] += [first | {'id': 1000 + i} for i in range(250)]

    write_config(*parts_of(own), 'mask-rcnn_r50_fpn_finetune', own / 'my.py')
    assert 'max_per_img' not in (own / 'my.py').read_text()
    assert 'max_detections' not in (own / 'my.py').read_text()
    edit(own / 'val/annotations.json', crowd)
    write_config(*parts_of(own), 'mask-rcnn_r50_fpn_finetune', own / 'my.py')
    cfg, text = Config.fromfile(own / 'my.py'), (own / 'my.py').read_text()
    cap, most = cfg.model.test_cfg.rcnn.max_per_img, most_objects(own / 'val/annotations.json')
    assert cap >= 1.25 * most
    assert cfg.model.test_cfg.rpn.nms_pre > 1000
    assert 'rpn_proposal' not in text  # the training images are as they were
    assert cfg.val_evaluator.max_detections == cfg.test_evaluator.max_detections == cap
    assert f'At most {most} objects in one image' in text
    assert f'model.test_cfg.rcnn.max_per_img: {cap} detections of an image instead of 100' in text


def test_every_mistake_of_both_files_comes_at_once(own):
    edit(own / 'train/annotations.json', lambda d: d['annotations'][0].pop('segmentation'))
    edit(own / 'val/annotations.json', lambda d: d['categories'][0].update(name='Fibre'))
    (own / 'val/0001.png').unlink()
    with pytest.raises(InputError) as error:
        write_config(*parts_of(own), 'mask-rcnn_r50_fpn_finetune', own / 'my.py')
    for words in ('annotation 1 of image 1', 'have other classes', '0001.png', 'Only in the second: Fibre'):
        assert words in str(error.value)
    assert not (own / 'my.py').exists()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'recipe': 'mask-rcnn_r50_fpn_fintune'}, "Did you mean 'mask-rcnn_r50_fpn_finetune'"),
        ({'out': 'my.yaml'}, 'must end in .py'),
        ({'batch_size': 99}, '99 is more than the 8 training images'),
    ],
)
def test_mistakes_of_the_call(own, change, words):
    call = {'recipe': 'mask-rcnn_r50_fpn_finetune', 'out': 'my.py', 'batch_size': None} | change
    with pytest.raises(InputError, match=words):
        write_config(*parts_of(own), call['recipe'], own / call['out'], call['batch_size'])


def test_number_of_classes_reaches_every_head():
    cascade = {
        'type': 'CascadeRCNN',
        'rpn_head': {'num_classes': 1},
        'roi_head': {
            'bbox_head': [{'type': 'A', 'num_classes': 80, 'keep': 1}, {'type': 'B', 'num_classes': 80}],
            'semantic_head': {'type': 'FusedSemanticHead', 'num_classes': 183},
            'mask_head': {'num_classes': 80},
        },
    }
    assert with_num_classes(cascade, 3) == {
        'roi_head': {
            'bbox_head': [{'type': 'A', 'num_classes': 3, 'keep': 1}, {'type': 'B', 'num_classes': 3}],
            'mask_head': {'num_classes': 3},
        }
    }


def as_cvat_writes(document, compressed):
    """Every mask an RLE with iscrowd=1."""
    from pycocotools import mask as coco_mask

    sizes = {image['id']: (image['height'], image['width']) for image in document['images']}
    for annotation in document['annotations']:
        rle = coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], *sizes[annotation['image_id']]))
        flat = coco_mask.decode(rle).ravel(order='F')
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
        runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
        counts = rle['counts'].decode() if compressed else runs
        annotation.update(iscrowd=1, segmentation={'size': list(sizes[annotation['image_id']]), 'counts': counts})


def training_data(config):
    """Boxes, labels and masks of the training images, as the pipeline gives them; the flip left out."""
    from mmengine.registry import DATASETS, init_default_scope

    init_default_scope('mmdet')
    cfg = copy.deepcopy(Config.fromfile(config).train_dataloader.dataset)
    cfg.pipeline = [transform for transform in cfg.pipeline if transform.type != 'RandomFlip']
    dataset = DATASETS.build(cfg)
    found = [dataset[i]['data_samples'] for i in range(len(dataset))]
    return {sample.img_path.rpartition('/')[2]: sample.gt_instances for sample in found}


@pytest.mark.parametrize('compressed', [True, False], ids=['compressed', 'uncompressed'])
def test_a_cvat_like_file_gives_what_its_polygons_give(own, compressed):
    write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'polygons.py')
    expected = training_data(own / 'polygons.py')
    for part in ('train', 'val'):
        edit(own / part / 'annotations.json', lambda document: as_cvat_writes(document, compressed))
    originals = [path.read_bytes() for path, _ in parts_of(own)]
    write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'crowd.py')
    assert all(len(instances) == 0 for instances in training_data(own / 'crowd.py').values())
    write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py', crowd_as_instances=True)
    found = training_data(own / 'my.py')
    assert [path.read_bytes() for path, _ in parts_of(own)] == originals
    assert found.keys() == expected.keys()
    for name, instances in expected.items():
        ours = found[name]
        assert ours.labels.equal(instances.labels)
        assert ours.bboxes.tensor.equal(instances.bboxes.tensor)
        assert len(instances)
        for mine, theirs in zip(ours.masks.to_ndarray(), instances.masks.to_ndarray(), strict=True):
            assert (mine & theirs).sum() / (mine | theirs).sum() >= 0.99


def test_crowds_become_objects_in_a_copy_that_the_config_names(own):
    for part in ('train', 'val'):
        edit(own / part / 'annotations.json', lambda document: as_cvat_writes(document, True))
    edit(own / 'train/annotations.json', lambda document: document['annotations'][0].update(segmentation=[]))
    edit(own / 'train/annotations.json', lambda document: document.update(licenses=[{'name': 'CC-BY Ü'}]))
    count = len(json.loads((own / 'train/annotations.json').read_text())['annotations'])
    lines = write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py', crowd_as_instances=True)
    written = own / 'my_train_crowd-as-instances.json'
    assert written == copy_path(own / 'my.py', 'train')
    words = f'{count - 1} of {count} annotations are set from iscrowd=1 to 0 in a copy, {written}. The file itself is left'
    assert any(words in line and '1 crowds without a mask stay as they are' in line for line in lines)
    cfg = Config.fromfile(own / 'my.py')
    assert cfg.train_dataloader.dataset.ann_file == str(written)
    assert cfg.val_dataloader.dataset.ann_file == cfg.val_evaluator.ann_file == str(copy_path(own / 'my.py', 'val'))
    document = json.loads(written.read_text(encoding='utf-8'))
    assert document['licenses'] == [{'name': 'CC-BY Ü'}]
    assert sum(annotation['iscrowd'] for annotation in document['annotations']) == 1


def test_without_the_option_crowds_are_named_with_it(own):
    edit(own / 'train/annotations.json', lambda document: as_cvat_writes(document, True))
    lines = write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py')
    (line,) = [line for line in lines if 'iscrowd' in line]
    assert 'Fiber' in line
    assert 'MMDetection does not train on them' in line
    assert line.endswith('run this again with --crowd-as-instances --force.')
    assert not copy_path(own / 'my.py', 'train').exists()


def test_the_option_does_nothing_where_there_is_no_crowd(own):
    lines = write_config(*parts_of(own), 'mask-rcnn_r18_fpn_finetune', own / 'my.py', crowd_as_instances=True)
    assert sum('no annotation is iscrowd=1 with a mask, so it is used as it is' in line for line in lines) == 2
    assert Config.fromfile(own / 'my.py').train_dataloader.dataset.ann_file == str(own / 'train/annotations.json')
    assert not list(own.glob('*crowd*'))


def test_the_command_writes_over_no_copy_without_force(own, run_command):
    edit(own / 'train/annotations.json', lambda document: as_cvat_writes(document, True))
    parts = [
        argument for part in ('train', 'val') for argument in (f'--{part}', own / part / 'annotations.json', own / part)
    ]
    call = ['init', *parts, '--recipe', 'mask-rcnn_r18_fpn_finetune', '--out', own / 'my.py', '--crowd-as-instances']
    copy_path(own / 'my.py', 'train').write_text('mine')
    done = run_command('mmext', *call, status=2)
    assert 'my_train_crowd-as-instances.json is there already' in done.stdout
    assert not (own / 'my.py').exists()
    assert 'set from iscrowd=1 to 0' in run_command('mmext', *call, '--force').stdout
    assert copy_path(own / 'my.py', 'train').read_text().startswith('{')


def test_a_map_of_classes_is_held_against_data_and_checkpoint(own):
    def write(class_map, recipe='mask-rcnn_r18_fpn_finetune'):
        return write_config(*parts_of(own), recipe, own / 'my.py', class_map=class_map)

    assert not any('--map' in line for line in write({'Fiber': 'Rod', 'film': None}))
    assert Config.fromfile(own / 'my.py').default_hooks.class_rows.map == {'Fiber': 'Rod', 'film': None}
    with pytest.raises(InputError) as error:
        write({'Fibre': 'Rod', 'Film': 'Rods'})
    assert "--map Fibre=Rod: 'Fibre' is no class of the data. Did you mean 'Fiber'?" in str(error.value)
    assert "'Rods' is no class of the checkpoint. Did you mean 'Rod'? It has: Disk, Rod, Star, Crescent." in str(error.value)
    later = write({'Fiber': 'hair drier'}, 'mask-rcnn_r50_fpn_finetune')
    assert any('are not known here; `mmext groups' in line for line in later)
    with pytest.raises(InputError, match="--map Fibre=: 'Fibre' is no class of the data"):
        write({'Fibre': None}, 'mask-rcnn_r50_fpn_finetune')
    assert 'class_rows' not in (write(None), (own / 'my.py').read_text())[1]
