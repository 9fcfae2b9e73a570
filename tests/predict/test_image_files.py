import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.errors import InputError
from mmext.predict.image_files import find_images


@pytest.fixture
def tree(tmp_path):
    """Images in folders, some that are none, and an output folder among them."""
    for name in (
        'a/1.tif',
        'a/2.PNG',
        'a/notes.txt',
        'a/.cache/3.png',
        'b/1.tif',
        'b/deep/1.jpg',
        'b/1.png',
        'out/overlays/1.png',
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(found, attribute='name'):
    return [getattr(image, attribute) for image in found]


def test_a_folder_stands_for_its_images_and_those_of_its_subfolders(tree):
    found = find_images([tree], tree / 'out')
    assert names(found, 'file_name') == ['a/1.tif', 'a/2.PNG', 'b/1.png', 'b/1.tif', 'b/deep/1.jpg']
    assert names(find_images([tree], tree / 'elsewhere'))[-1] == 'out/overlays/1'


def test_no_two_images_have_one_name(tree):
    found = find_images([tree], tree / 'out')
    assert names(found) == ['a/1', 'a/2', 'b/1.png', 'b/1.tif', 'b/deep/1']  # b/1 would be two
    two_folders = find_images([tree / 'a', tree / 'b/1.tif'], tree / 'out')
    assert names(two_folders) == ['a/1', 'a/2', 'b/1']
    assert names(find_images([tree / 'b'], tree / 'out')) == ['1.png', '1.tif', 'deep/1']


def test_names_of_a_folder_do_not_depend_on_what_is_in_it(tree):
    (tree / 'b/1.tif').unlink()
    (tree / 'b/1.png').unlink()
    assert names(find_images([tree / 'b'], tree / 'out')) == ['deep/1']


def test_capitals_alone_are_no_difference(tree):
    (tree / 'c').mkdir()
    (tree / 'c/X.png').touch()
    (tree / 'c/x.tif').touch()
    assert names(find_images([tree / 'c'], tree / 'out')) == ['X.png', 'x.tif']


PARTS = st.sampled_from(['a', 'A', 'a.tif', 'a.png', 'A.tif.png', '__', '.'])
FILES = st.lists(
    st.tuples(st.lists(PARTS, min_size=1, max_size=2), st.sampled_from(['.tif', '.TIF', '.png', ''])), min_size=1
)


@settings(deadline=None)
@given(FILES, st.randoms())
def test_names_are_unique_whatever_the_files_are_called(tmp_path_factory, files, random):
    folder = tmp_path_factory.mktemp('names')
    for parts, suffix in files:
        path = folder.joinpath(*parts[:-1], f'{parts[-1]}{suffix}')
        if not path.exists() and not any(parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    paths = [path for path in folder.rglob('*') if path.is_file()]
    found = find_images(paths, folder / 'out')
    assert len({image.name.casefold() for image in found}) == len({image.file_name for image in found}) == len(paths)
    random.shuffle(paths)
    assert {(image.path, image.name) for image in found} == {
        (image.path, image.name) for image in find_images(paths, folder / 'out')
    }


def test_a_name_that_another_takes_is_looked_at_again(tmp_path):
    for name in ('a.tif', 'a.png', 'a.tif.png', 'B.png', 'b.PNG', 'b.png~2.tif'):
        (tmp_path / name).touch()
    found = {image.file_name: image.name for image in find_images([tmp_path], tmp_path / 'out')}
    assert found == {
        'a.tif': 'a.tif',
        'a.png': 'a.png',
        'a.tif.png': 'a.tif.png',
        'B.png': 'B.png',
        'b.PNG': 'b.PNG~3',  # b.png~2 is taken
        'b.png~2.tif': 'b.png~2',
    }


def test_a_link_out_of_the_folder_and_a_folder_of_that_name(tmp_path):
    for name in ('other/a.png', 'in/__/other/a.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'in/link.png').symlink_to(tmp_path / 'other/a.png')
    found = find_images([tmp_path / 'in'], tmp_path / 'out')
    assert names(found, 'file_name') == ['__/other/a.png', '___/other/a.png']


def test_files_patterns_and_what_is_named_twice(tree):
    found = find_images([tree / 'b/deep/1.jpg', str(tree / '*/1.tif'), tree / 'b'], tree / 'out')
    assert names(found, 'file_name') == ['b/deep/1.jpg', 'a/1.tif', 'b/1.tif', 'b/1.png']
    assert names(find_images([str(tree / '**/*.jpg')], tree / 'out')) == ['1']
    assert names(find_images([tree / 'a/notes.txt'], tree / 'out'), 'file_name') == ['notes.txt']  # it was named


def test_a_name_with_brackets_is_a_file_and_no_pattern(tree):
    (tree / 'a[1].png').touch()
    assert names(find_images([str(tree / 'a[1].png')], tree / 'out')) == ['a[1]']


@pytest.mark.parametrize(
    ('argument', 'words'),
    [('nowhere', 'nowhere: there is no such file'), ('*.jpeg', 'no image fits it'), ('empty', 'no image in it.*tif, .tiff')],
)
def test_no_image_is_said_in_words(tree, argument, words):
    (tree / 'empty').mkdir()
    with pytest.raises(InputError, match=words):
        find_images([str(tree / argument)], tree / 'out')


def test_a_checkpoint_is_no_image(tmp_path):
    """The shell makes two words of best_*.pth where two files fit it."""
    (tmp_path / 'best_2.pth').touch()
    with pytest.raises(InputError, match=r'best_2\.pth: a checkpoint among the images. One is wanted, right after CONFIG'):
        find_images([tmp_path / 'best_2.pth'], tmp_path / 'out')
