import io
import json
import re

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmext.data import image_checks
from mmext.data.coco_file import CocoFile, read_coco
from mmext.data.demo import make_image, write_part
from mmext.data.image_checks import NEAR, check_images, check_same_images, nearest


def picture(seed, width=96, height=64):
    return cv2.resize(make_image(np.random.default_rng(seed), {})[0], (width, height))


def coco_of(tmp_path, files):
    """A COCO file whose images have these contents: name to bytes, or to (bytes, (width, height) for the JSON)."""
    images = []
    for number, (name, content) in enumerate(files.items()):
        content, size = content if isinstance(content, tuple) else (content, (96, 64))
        (tmp_path / name).write_bytes(content)
        images.append({'id': number + 1, 'file_name': name, 'width': size[0], 'height': size[1]})
    return CocoFile(tmp_path / 'ann.json', images, [], [])


def encoded(array, kind='.png'):
    return cv2.imencode(kind, array)[1].tobytes()


def with_orientation(array, orientation, kind='JPEG'):
    tag, out = Image.Exif(), io.BytesIO()
    tag[0x0112] = orientation
    Image.fromarray(array[..., ::-1]).save(out, kind, exif=tag)
    return out.getvalue()


def found(coco, folder, loading=None):
    findings, facts = check_images(coco, folder, 'train', loading=loading)
    return {finding.code: finding for finding in findings}, facts


def test_made_data_is_clean(tmp_path):
    parts = {}
    for number, name in enumerate(('train', 'val')):
        for _ in write_part(tmp_path / name, 8, (0, number)):
            pass
        calls = []
        coco = read_coco(tmp_path / name / 'annotations.json')
        findings, parts[name] = check_images(coco, tmp_path / name, name, lambda *step, calls=calls: calls.append(step))
        assert findings == []
        assert calls == [(i, 8) for i in range(1, 9)]
        assert len(parts[name]) == 8
        assert next(iter(parts[name].values())).size == (256, 256)
    assert check_same_images(**parts) == []


def test_files_that_cannot_be_read(tmp_path):
    jpeg, png = encoded(picture(1), '.jpg'), encoded(picture(2))
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 255
    files = {
        'fine.png': png,
        'empty.png': b'',
        'cut.jpg': jpeg[: len(jpeg) // 2],
        'cut.png': png[: len(png) // 2],
        'cut.tif': encoded(picture(3), '.tif')[:-4000],
        'damaged.png': bytes(damaged),
        'page.png': b'<html>Not found</html>',
        'real.tif': encoded(np.random.default_rng(0).random((64, 96)).astype(np.float32), '.tif'),
    }
    coco = coco_of(tmp_path, files)
    coco.images.append({'id': 99, 'file_name': 'missing.png', 'width': 1, 'height': 1})  # the file checks name it
    codes, facts = found(coco, tmp_path)
    assert set(codes) == {'image-empty-file', 'image-unreadable', 'image-kinds'}
    assert codes['image-empty-file'].examples == ('image 2 (empty.png): 0 bytes',)
    unreadable = codes['image-unreadable']
    assert (unreadable.severity, unreadable.count, unreadable.where) == ('severe', 6, 'train')
    assert unreadable.text.startswith('6 of 9 images cannot be read')
    assert unreadable.examples[0].startswith('image 3 (cut.jpg): truncated or damaged: image file is truncated')
    assert "page.png): no image that OpenCV or Pillow knows; it begins with b'<html>" in unreadable.examples[4]
    assert len(unreadable.examples) == 5
    assert set(facts) == {'fine.png'}


def test_a_type_that_stock_loading_cannot_read(tmp_path):
    real = encoded(np.random.default_rng(0).random((64, 96)).astype(np.float32), '.tif')
    codes, _ = found(coco_of(tmp_path, {'real.tif': real}), tmp_path)
    assert codes['image-unreadable'].examples == (
        'image 1 (real.tif): pixels of type float32, which stock loading cannot read',
    )


def test_a_jpeg_that_opencv_4_completes_with_grey(tmp_path):
    jpeg = encoded(picture(1), '.jpg')
    assert image_checks._why_broken(jpeg, True) is None
    assert 'truncated' in image_checks._why_broken(jpeg[: len(jpeg) // 2], True)
    assert image_checks._why_broken(jpeg + b'\0' * 500, True) is None  # padded by a file system, not cut


def test_size_of_the_json_against_the_file(tmp_path):
    codes, _ = found(coco_of(tmp_path, {'a.png': encoded(picture(1)), 'b.png': (encoded(picture(2)), (64, 96))}), tmp_path)
    assert set(codes) == {'image-size-not-file'}
    assert codes['image-size-not-file'].examples == ('image 2 (b.png): 64x96 in the JSON, 96x64 as loaded',)


@pytest.mark.parametrize(
    ('orientation', 'size', 'code', 'severity'),
    [
        (1, (96, 64), None, None),
        (6, (96, 64), 'exif-rotation', 'severe'),  # annotated unturned, loaded turned
        (8, (64, 96), 'exif-rotation-followed', 'information'),
        (3, (96, 64), 'exif-rotation-unclear', 'warning'),  # upside down: the size is the same
        (6, (50, 50), 'image-size-not-file', 'severe'),
    ],
)
def test_exif_orientation(tmp_path, orientation, size, code, severity):
    content = with_orientation(picture(1), orientation)
    codes, facts = found(coco_of(tmp_path, {'a.jpg': (content, size)}), tmp_path)
    assert [(finding.code, finding.severity) for finding in codes.values()] == ([(code, severity)] if code else [])
    # what the finding says of MMDetection's loading is what its loader does
    from mmcv.transforms import LoadImageFromFile

    loaded = LoadImageFromFile()({'img_path': str(tmp_path / 'a.jpg')})['img']
    assert facts['a.jpg'].size == loaded.shape[1::-1]
    if code == 'exif-rotation':
        assert 'EXIF orientation 6' in codes[code].examples[0]
        loaded = LoadImageFromFile(color_type='color_ignore_orientation')({'img_path': str(tmp_path / 'a.jpg')})['img']
        assert loaded.shape[1::-1] == size  # the remedy brings picture and annotations together


@pytest.mark.parametrize('loading', [{'color_type': 'color_ignore_orientation'}, {'color_type': 'unchanged'}])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize(
    ('orientation', 'size', 'codes'),
    [
        (6, (96, 64), []),  # the remedy was followed
        (8, (64, 96), ['exif-rotation-ignored']),  # annotated as turned, loaded unturned
        (3, (96, 64), []),
        (6, (50, 50), ['image-size-not-file']),
    ],
)
def test_exif_orientation_where_the_pipeline_ignores_it(tmp_path, loading, backend, orientation, size, codes):
    from mmcv.transforms import LoadImageFromFile

    coco = coco_of(tmp_path, {'a.jpg': (with_orientation(picture(1), orientation), size)})
    loading = loading | {'imdecode_backend': backend}
    findings, facts = found(coco, tmp_path, {'type': 'LoadImageFromFile', **loading})
    assert list(findings) == codes
    assert facts['a.jpg'].size == LoadImageFromFile(**loading)({'img_path': str(tmp_path / 'a.jpg')})['img'].shape[1::-1]
    for code in codes:
        assert '96x64 as loaded' in findings[code].examples[0]
        assert findings[code].severity == 'severe'


@pytest.mark.parametrize(
    'loading',
    [
        {'type': 'LoadImageFromFile', 'color_type': 'unchanged'},
        {'type': 'mmdet.LoadImageFromFile', 'imdecode_backend': 'tifffile'},
        {'type': 'ReadSlide'},
    ],
)
def test_of_another_loading_no_depth_is_said(tmp_path, loading):
    dark = np.linspace(0, 4095, 96 * 64).reshape(64, 96).astype(np.uint16)
    real = np.random.default_rng(0).random((64, 96)).astype(np.float32)
    coco = coco_of(tmp_path, {'dark.png': encoded(dark), 'real.tif': encoded(real, '.tif')})
    findings, facts = found(coco, tmp_path, {'type': 'LoadImageFromFile'})
    assert {'bit-depth-lost', 'image-unreadable'} <= set(findings)
    findings, facts = found(coco, tmp_path, loading)
    assert findings == {}
    assert set(facts) == {'dark.png', 'real.tif'}


def test_a_format_of_another_loader_is_no_broken_image(tmp_path):
    whole = encoded(picture(1))
    coco = coco_of(tmp_path, {'a.vsi': b'II no format that OpenCV knows', 'cut.png': whole[: len(whole) // 2]})
    assert found(coco, tmp_path)[0]['image-unreadable'].count == 2
    findings, _ = found(coco, tmp_path, {'type': 'ReadSlide'})
    assert findings['image-unreadable'].count == 1  # what Pillow knows and finds cut off
    turned = with_orientation(picture(1), 6)
    for size in ((96, 64), (64, 96)):
        assert found(coco_of(tmp_path, {'a.jpg': (turned, size)}), tmp_path, {'type': 'ReadSlide'})[0] == {}


@pytest.mark.parametrize('kind', ['.png', '.tif'])
@pytest.mark.parametrize('colours', [1, 3])
def test_twelve_bits_in_sixteen(tmp_path, kind, colours):
    grey = np.linspace(0, 4095, 96 * 64 * colours).reshape(64, 96, colours).astype(np.uint16)
    grey[0, 0] = 65535  # a hot pixel
    codes, _ = found(coco_of(tmp_path, {'a' + kind: encoded(grey, kind)}), tmp_path)
    finding = codes['bit-depth-lost']
    assert finding.severity == 'severe'
    # OpenCV rounds in a colour TIFF, and drops the lower bits elsewhere
    assert re.search('uint16, values 0 to 65535, loaded as 1[67] grey values', finding.examples[0])
    assert "dict(type='mmext.LoadMicroscopeImage', limits=(LOW, HIGH))" in finding.remedy


def test_sixteen_bits_in_full_are_no_problem(tmp_path):
    grey = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    codes, _ = found(coco_of(tmp_path, {'a.png': encoded(grey)}), tmp_path)
    assert {finding.severity for finding in codes.values()} == {'information'}
    assert 'loaded as 256 grey values' in codes['bit-depth-reduced'].examples[0]


def test_kinds_are_counted(tmp_path):
    def saved(mode):
        out = io.BytesIO()
        Image.fromarray(picture(1)).convert(mode).save(out, 'PNG')
        return out.getvalue()

    files = {'a.png': saved('L'), 'b.png': saved('RGBA'), 'c.png': saved('P'), 'd.png': saved('RGB')}
    codes, _ = found(coco_of(tmp_path, files), tmp_path)
    assert codes['image-kinds'].text.startswith('of 4 images 1 grey, 1 with a palette, 1 with alpha;')
    assert codes['image-kinds'].severity == 'information'


def test_the_same_pixels_twice_in_a_part(tmp_path):
    same, other = picture(1), picture(2)
    # other bytes, the same pixels
    files = {'a.png': encoded(same), 'b.png': encoded(other), 'c.bmp': encoded(same, '.bmp'), 'd.tif': encoded(same, '.tif')}
    codes, _ = found(coco_of(tmp_path, files), tmp_path)
    assert codes['same-image-twice'].count == 2
    assert codes['same-image-twice'].examples == ('a.png = c.bmp = d.tif',)


def test_an_image_of_val_in_train(tmp_path):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'val').mkdir()
    shared, size = make_image(np.random.default_rng(5), {})[0], (256, 256)
    other = make_image(np.random.default_rng(6), {})[0]
    train = coco_of(tmp_path / 'train', {'a.png': (encoded(shared), size), 'b.png': (encoded(other), size)})
    again = {'c.png': (encoded(shared), size), 'd.jpg': (encoded(other, '.jpg'), size)}
    again['e.png'] = encoded(make_image(np.random.default_rng(7), {})[0]), size
    val = coco_of(tmp_path / 'val', again)
    facts = [check_images(part, part.path.parent, 'x')[1] for part in (train, val)]
    findings = check_same_images(*facts)
    assert [(finding.code, finding.severity) for finding in findings] == [
        ('image-in-train-and-val-by-content', 'severe'),
        ('near-duplicate-images', 'warning'),
    ]
    assert findings[0].examples == ('val c.png = train a.png',)
    assert findings[0].text.startswith('1 of 3 validation images')
    assert findings[1].examples[0].startswith('val d.jpg ~ train b.png: ')
    assert findings[1].count == 1


@pytest.mark.parametrize(
    'change',
    [
        lambda image: cv2.imdecode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1),
        lambda image: cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA),
        lambda image: np.clip(image * 1.2, 0, 255).astype(np.uint8),
        lambda image: image.astype(np.uint16) * 16,  # 12 bits
    ],
)
def test_a_changed_copy_is_near_and_another_image_is_not(tmp_path, change):
    from mmext.data.demo import PARTICLES

    images = [make_image(np.random.default_rng([8, i]), PARTICLES)[0] for i in range(6)]
    facts = []
    for folder, pictures in (('one', images), ('two', [change(image) for image in images])):
        (tmp_path / folder).mkdir()
        files = {f'{i}.png': (encoded(image), image.shape[1::-1]) for i, image in enumerate(pictures)}
        facts.append(check_images(coco_of(tmp_path / folder, files), tmp_path / folder, 'x')[1])
    for name, (other, bits) in nearest(*facts).items():
        assert other == name
        assert bits <= NEAR
    for name in facts[1]:
        others = {other: fact for other, fact in facts[0].items() if other != name}
        assert nearest(others, {name: facts[1][name]})[name][1] > NEAR


def test_nearest_counts_the_bits(tmp_path):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (30, 256)).astype(np.uint8)
    facts = {str(i): image_checks.ImageFacts((1, 1), bytes([i]), np.packbits(row).tobytes()) for i, row in enumerate(bits)}
    train, val = (dict(list(facts.items())[part]) for part in (slice(0, 20), slice(20, 30)))
    for name, (_, distance) in nearest(train, val).items():
        assert distance == (bits[:20] != bits[int(name)]).sum(1).min()
    assert nearest({}, val) == {}


def test_flat_images_are_not_near(tmp_path):
    facts = []
    for number, folder in enumerate(('one', 'two')):
        (tmp_path / folder).mkdir()
        flat = np.full((64, 96, 3), 100 + number, np.uint8)
        facts.append(check_images(coco_of(tmp_path / folder, {'a.png': encoded(flat)}), tmp_path / folder, 'x')[1])
    assert check_same_images(*facts) == []


def test_without_imagehash_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(image_checks.importlib.util, 'find_spec', lambda name: None)
    codes, facts = found(coco_of(tmp_path, {'a.png': encoded(picture(1))}), tmp_path)
    assert codes == {}
    (finding,) = check_same_images(facts, {})
    assert (finding.code, finding.severity) == ('near-duplicates-not-checked', 'information')
    assert finding.remedy == "pip install 'mmext[check]'"


def test_the_answer_is_json(tmp_path):
    from mmext.analysis.findings import to_record

    findings, _ = check_images(coco_of(tmp_path, {'a.png': b''}), tmp_path, 'val')
    assert json.loads(json.dumps(to_record(findings)))[0]['where'] == 'val'


@pytest.mark.parametrize('kind', ['.png', '.jpg', '.tif', '.bmp', '.webp'])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spoilt_files_are_findings_and_never_errors(tmp_path, kind, seed):
    """Bytes that are changed, cut out or added: whatever OpenCV and Pillow make of them, each file is read or named."""
    rng = np.random.default_rng(seed)
    content = bytearray(encoded(picture(1), kind))
    for _ in range(rng.integers(1, 6)):
        place, length = rng.integers(0, len(content) - 9), rng.integers(0, 9)
        content[place : place + length] = rng.bytes(rng.integers(0, 9))
    codes, facts = found(coco_of(tmp_path, {'a' + kind: bytes(content)}), tmp_path)
    assert facts or codes['image-unreadable'].count == 1
