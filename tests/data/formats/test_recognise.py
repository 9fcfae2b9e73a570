import json
import subprocess
import sys

import numpy as np
import pytest
from format_files import (
    coco_document,
    cvat_text,
    some_scenes,
    via_document,
    write_class_folders,
    write_images,
    write_labelme,
    write_map,
    write_via_csv,
    write_yolo,
)

from mmext.data.formats import NAMES, READERS, recognise
from mmext.data.formats.content import Asked
from mmext.errors import InputError

SCENES = some_scenes(3)
WRITERS = {
    'coco': lambda folder: (folder / 'coco.json').write_text(json.dumps(coco_document(SCENES))),
    'label-maps': lambda folder: write_class_folders(folder, SCENES),
    'yolo': lambda folder: write_yolo(folder, SCENES),
    'labelme': lambda folder: write_labelme(folder, SCENES),
    'cvat': lambda folder: (folder / 'annotations.xml').write_text(cvat_text(SCENES)),
    'via': lambda folder: (folder / 'via.json').write_text(json.dumps(via_document(SCENES))),
}


@pytest.fixture
def ann(tmp_path):
    write_images(tmp_path / 'images', SCENES)
    (tmp_path / 'ann').mkdir()
    return tmp_path / 'ann'


def kind_of(path, **asked):
    return recognise(path, path.parent / 'images', Asked(**asked))


@pytest.mark.parametrize('name', NAMES)
def test_a_folder_is_recognised_and_its_file_too(ann, name):
    WRITERS[name](ann)
    kind, path = kind_of(ann)
    assert kind == name
    if name in ('coco', 'cvat', 'via'):
        assert path.is_file()
        assert kind_of(path)[0] == name
    if name in READERS:
        assert len(READERS[kind](path, ann.parent / 'images', Asked()).objects) == 9


def test_single_files_by_what_is_in_them(ann):
    write_via_csv(ann / 'via.csv', SCENES)
    assert kind_of(ann) == ('via', ann / 'via.csv')
    write_labelme(ann / 'one', SCENES[:1])
    (file,) = (ann / 'one').iterdir()
    assert kind_of(file)[0] == 'labelme'
    (ann / 'other.json').write_text('[]')
    assert kind_of(ann / 'other.json')[0] == 'coco'  # whose reader says what is wrong
    assert kind_of(ann / 'missing.json')[0] == 'coco'


def test_a_table_beside_label_maps_is_no_format_of_its_own(ann):
    write_map(ann / 'a.png', np.ones((5, 5), np.uint8))
    (ann / 'classes.csv').write_text('value,class\n1,Fiber\n')
    assert kind_of(ann)[0] == 'label-maps'
    (ann / 'classes.json').write_text('{"1": "Fiber"}')
    assert kind_of(ann)[0] == 'label-maps'


def test_images_among_the_annotations_are_no_label_maps(ann):
    WRITERS['labelme'](ann)
    write_images(ann, SCENES)
    assert kind_of(ann)[0] == 'labelme'
    assert recognise(ann, ann, Asked())[0] == 'labelme'


def test_several_formats_are_ambiguous_until_one_is_chosen(ann):
    WRITERS['labelme'](ann)
    WRITERS['cvat'](ann)
    with pytest.raises(
        InputError, match=r'several formats: labelme \(.*\.json\), cvat \(annotations.xml\).*--format labelme'
    ):
        kind_of(ann)
    assert kind_of(ann, format='labelme') == ('labelme', ann)
    assert kind_of(ann, format='cvat') == ('cvat', ann / 'annotations.xml')


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('a.zip', 'an archive. Unpack it'),
        ('a.docx', 'no known format. Known are: a COCO file'),
        ('a.png', 'one image. Of label maps give their folder'),
    ],
)
def test_files_of_no_format(ann, name, words):
    (ann / name).write_text('x')
    with pytest.raises(InputError, match=words):
        kind_of(ann / name)


def test_folders_of_no_format(ann):
    with pytest.raises(InputError, match=r'no annotations of a known format in it\. Known are'):
        kind_of(ann)
    (ann / 'readme.txt').write_text('2 notes on the images')
    with pytest.raises(InputError, match='no annotations of a known format'):
        kind_of(ann)
    with pytest.raises(InputError, match='no such annotation file or folder'):
        kind_of(ann / 'nothing')
    for name in ('a.xml', 'b.xml'):
        (ann / name).write_text('<annotations/>')
    with pytest.raises(InputError, match=r'one file of cvat is needed, and it has: a\.xml, b\.xml'):
        kind_of(ann)


def test_importing_the_readers_is_light():
    heavy = ('torch', 'mmdet', 'scipy', 'skimage', 'cv2', 'PIL', 'tifffile', 'defusedxml', 'yaml')
    code = f'import sys, mmext.data.formats, mmext.data.split; print([one for one in {heavy} if one in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
