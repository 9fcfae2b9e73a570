import pytest
from format_files import CLASSES, Scene, assert_same, scenes, some_scenes, write_images, write_yolo
from hypothesis import HealthCheck, given, settings

from mmext.data.formats.content import Asked, classes_of, to_coco
from mmext.data.formats.yolo import read
from mmext.errors import InputError


def converted(path, images):
    content = read(path, images, Asked())
    return to_coco(content, classes_of([content]))


@given(scenes())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp('yolo')
    write_images(folder / 'images', found)
    write_yolo(folder, found)
    document = converted(folder / 'labels', folder / 'images')
    assert_same(document, found)
    assert tuple(category['name'] for category in document['categories']) == CLASSES


@pytest.fixture
def one(tmp_path):
    """One image of 40x30; ``convert`` writes its label file."""
    write_images(tmp_path / 'images', [Scene('a.png', 40, 30, [])])
    write_yolo(tmp_path, [])

    def convert(text):
        (tmp_path / 'labels/a.txt').write_text(text)
        return converted(tmp_path / 'data.yaml', tmp_path / 'images')

    convert.folder = tmp_path
    return convert


TRIANGLE = '0.1 0.1 0.9 0.1 0.5 0.9'


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('0 0.1 0.1 0.5 0.5', r'1 lines with a box and no outline: a.txt line 1 \(Film\). Export as YOLO segmentation'),
        ('0 0.1 0.1', r'fewer than three different points: a.txt line 1 \(Film\): 1'),
        ('0 0.1 0.1 0.5 0.5 0.9', 'odd number of coordinates'),
        (f'7 {TRIANGLE}', r'a class that data.yaml does not name \(it has: 0 Film, 1 Fiber\): a.txt line 1: 7'),
        (f'0.5 {TRIANGLE}', 'does not name'),
        (f'Film {TRIANGLE}', 'lines that are not numbers alone'),
        ('0 0.1 0.1 0.9 nan 0.5 0.9', 'no pairs of numbers'),
        ('0 0.1 0.1 1.2 0.1 0.5 0.9', r'leave their image: a.txt line 1 \(Film\): x 4 to 48, y 3 to 27, image 40x30'),
        ('0 10 10 30 10 20 20', 'leave their image'),
    ],
)
def test_faults_name_file_and_line(one, text, words):
    with pytest.raises(InputError, match=words):
        one(f'\n{text}\n'.lstrip('\n'))


def test_all_faults_come_at_once(one):
    (one.folder / 'labels/b.txt').write_text(f'0 {TRIANGLE}')
    with pytest.raises(InputError) as error:
        one(f'0 {TRIANGLE}\n0 0.1 0.1 0.5 0.5\n9 {TRIANGLE}')
    for words in ('a.txt line 2 (Film)', 'a.txt line 3: 9', '1 label files without an image', 'b.txt'):
        assert words in str(error.value)


def test_a_point_on_the_edge_is_not_outside(one):
    (annotation,) = one('0 -0.00001 0 1.00001 0 0.5 1.01')['annotations']
    assert annotation['bbox'] == [0, 0, 40, 30]


def test_an_image_without_a_label_has_no_object(tmp_path):
    found = some_scenes(4)
    write_images(tmp_path / 'images', found)
    write_yolo(tmp_path, found[:3])
    (tmp_path / 'labels' / found[0].file_name).with_suffix('.txt').write_text('')
    content = read(tmp_path / 'data.yaml', tmp_path / 'images', Asked())
    assert len(content.pictures) == 4
    assert any('2 images have no object' in remark for remark in content.remarks)


def test_a_file_without_names_says_what_it_has(one):
    (one.folder / 'data.yaml').write_text('nmes: [Film]\nnc: 1')
    with pytest.raises(InputError, match=r'no names of classes in it\. It has: nmes, nc\.'):
        one(f'0 {TRIANGLE}')


def test_parts_lie_where_ultralytics_looks(tmp_path):
    found = some_scenes(4)
    for part, some in (('train', found[:3]), ('val', found[3:])):
        write_images(tmp_path / 'images' / part, some)
        write_yolo(tmp_path / part, some)
        (tmp_path / 'labels').mkdir(exist_ok=True)
        (tmp_path / part / 'labels').rename(tmp_path / 'labels' / part)
    (tmp_path / 'train/data.yaml').rename(tmp_path / 'data.yaml')
    (tmp_path / 'val/data.yaml').unlink()
    for given_path in ('data.yaml', 'labels', 'labels/train'):
        assert_same(converted(tmp_path / given_path, tmp_path / 'images/train'), found[:3])
    assert len(converted(tmp_path / 'data.yaml', tmp_path / 'images')['images']) == 4


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (None, 'nothing names their classes'),
        ('names: [Fiber, Fiber]', 'a name twice'),
        ('names: {a: Fiber}', 'keys that are no numbers'),
        ('nc: 2', 'nothing names their classes'),
        ('names: [Fiber', 'not YAML: .* in line 1'),
        ('nc: 3\nnames: [Film, Fiber]', r'nc is 3, and names has 2: Film, Fiber\. Correct one'),
    ],
)
def test_names_that_cannot_be_used(one, names, words):
    (one.folder / 'data.yaml').unlink()
    if names:
        (one.folder / 'data.yaml').write_text(names)
    (one.folder / 'labels/a.txt').write_text(f'0 {TRIANGLE}')
    with pytest.raises(InputError, match=words):
        read(one.folder / 'labels', one.folder / 'images', Asked())


def test_names_in_classes_txt(one):
    (one.folder / 'data.yaml').unlink()
    (one.folder / 'labels/classes.txt').write_text('Cell\nNucleus\n')
    (one.folder / 'labels/a.txt').write_text(f'1 {TRIANGLE}')
    content = read(one.folder / 'labels', one.folder / 'images', Asked())
    assert [found.name for found in content.objects] == ['Nucleus']
    assert content.origins['Nucleus'] == 'class 1 of classes.txt'
