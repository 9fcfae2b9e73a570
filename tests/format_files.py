"""Drawn objects, and writers of them in the formats of annotation tools, as the tools themselves write them."""

import base64
import csv
import io
import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

CLASSES = ('Film', 'Fiber')  # not in the order of the alphabet


@dataclass
class Drawn:
    """An object: its class, and either polygons [(x, y), ...] or a mask (H, W) bool."""

    name: str
    polygons: list = field(default_factory=list)
    mask: np.ndarray | None = None


@dataclass
class Scene:
    """An image and its objects."""

    file_name: str
    width: int
    height: int
    objects: list


def mask_of(one: Drawn, scene: Scene) -> np.ndarray:
    if one.mask is not None:
        return one.mask
    flat = [np.array(polygon, float).ravel().tolist() for polygon in one.polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, scene.height, scene.width))).astype(bool)


def drawn_again(document: dict) -> dict[str, list[tuple[str, np.ndarray]]]:
    """File name to class and mask of each object of a COCO document."""
    images = {image['id']: image for image in document['images']}
    names = {category['id']: category['name'] for category in document['categories']}
    found = {image['file_name']: [] for image in document['images']}
    for one in document['annotations']:
        image = images[one['image_id']]
        rle = one['segmentation']
        if isinstance(rle, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(rle, image['height'], image['width']))
        mask = coco_mask.decode(rle).astype(bool)
        assert one['area'] == mask.sum()
        assert one['iscrowd'] == 0
        found[image['file_name']].append((names[one['category_id']], mask))
    return found


def assert_same(document: dict, scenes: list[Scene], ordered: bool = True) -> None:
    """The document has these objects and no others: classes equal, IoU of each mask 0.99 or more."""
    found = drawn_again(document)
    assert {scene.file_name for scene in scenes} == set(found)
    for scene in scenes:
        theirs = [(one.name, mask_of(one, scene)) for one in scene.objects]
        ours = found[scene.file_name]
        assert len(ours) == len(theirs)
        if not ordered:
            ours, theirs = (sorted(some, key=lambda item: (item[0], item[1].tobytes())) for some in (ours, theirs))
        for (name, mask), (expected, truth) in zip(ours, theirs, strict=True):
            assert name == expected
            assert (mask & truth).sum() >= 0.99 * (mask | truth).sum()


@st.composite
def polygons(draw, width, height):
    """A star-shaped polygon inside of the image, of some 30 px² or more, in hundredths of a pixel, as CVAT writes them."""
    corners = draw(st.integers(3, 9))
    radius = draw(st.lists(st.floats(5, 12), min_size=corners, max_size=corners))
    x, y, turn = draw(st.floats(12, width - 12)), draw(st.floats(12, height - 12)), draw(st.floats(0, 6))
    angle = [turn + i * 2 * math.pi / corners for i in range(corners)]
    return [(round(x + r * math.cos(a), 2), round(y + r * math.sin(a), 2)) for r, a in zip(radius, angle, strict=True)]


@st.composite
def masks(draw, width, height):
    """Some rectangles with a hole in them: several parts or one."""
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 3))):
        x, y = draw(st.integers(0, width - 5)), draw(st.integers(0, height - 5))
        mask[y : y + draw(st.integers(5, 15)), x : x + draw(st.integers(5, 15))] = True
        mask[y + 1 + draw(st.integers(0, 2)), x + 2] = False
    return mask


@st.composite
def scenes(draw, parts=1, with_masks=False, with_polygons=True, overlap=True):
    """One or two images of up to four objects."""
    found = []
    for i in range(draw(st.integers(1, 2))):
        width, height = draw(st.integers(30, 60)), draw(st.integers(30, 60))
        objects, free = [], np.ones((height, width), bool)
        for _ in range(draw(st.integers(1, 4))):
            name = draw(st.sampled_from(CLASSES))
            if with_masks and (not with_polygons or draw(st.booleans())):
                mask = draw(masks(width, height))
                mask = mask if overlap else mask & free
                free &= ~mask
                objects += [Drawn(name, mask=mask)] if mask.any() else []
            else:
                number = draw(st.integers(1, parts))
                objects.append(Drawn(name, [draw(polygons(width, height)) for _ in range(number)]))
        found.append(Scene(f'slide{i}_frame{i}.png', width, height, objects))
    return found


def some_scenes(images: int = 6, samples: int = 3, **more) -> list[Scene]:
    """The same scenes each time: two classes in every image, of ``samples`` samples."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(images):
        objects = []
        for j, name in enumerate((*CLASSES, CLASSES[0])):
            x, y = 15 + 20 * j, rng.integers(15, 45)
            angle = np.arange(8) * np.pi / 4
            corners = np.stack([x + 8 * np.cos(angle), y + 8 * np.sin(angle)], 1)
            objects.append(Drawn(name, [corners.tolist()]))
        found.append(Scene(f'slide{i % samples}_frame{i}.png', 70, 60, objects))
    return found


def write_images(folder: Path, scenes: list[Scene]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(scenes):
        pixels = np.random.default_rng(i).integers(0, 255, (scene.height, scene.width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / scene.file_name)


def coco_document(scenes: list[Scene], crowd: bool = False, names=CLASSES) -> dict:
    """With ``crowd`` as CVAT writes masks: an RLE and iscrowd=1."""
    images, annotations = [], []
    for scene in scenes:
        images.append({'id': len(images) + 1, 'file_name': scene.file_name, 'width': scene.width, 'height': scene.height})
        for one in scene.objects:
            rle = coco_mask.encode(np.asfortranarray(mask_of(one, scene).astype(np.uint8)))
            outline = [np.array(polygon).ravel().tolist() for polygon in one.polygons]
            if crowd or one.mask is not None:
                flat = mask_of(one, scene).ravel(order='F')
                outline = {'size': [scene.height, scene.width], 'counts': runs_of(flat)}
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': len(images),
                    'category_id': names.index(one.name) + 1,
                    'segmentation': outline,
                    'bbox': coco_mask.toBbox(rle).tolist(),
                    'area': int(coco_mask.area(rle)),
                    'iscrowd': int(crowd),
                }
            )
    categories = [{'id': i, 'name': name} for i, name in enumerate(names, 1)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def runs_of(flat) -> list[int]:
    """Lengths of runs, the first of them background."""
    found = [(bool(value), len(list(group))) for value, group in itertools.groupby(flat)]
    return [length for _, length in ([(False, 0), *found] if found[0][0] else found)]


def write_yolo(folder: Path, scenes: list[Scene], names=CLASSES) -> None:
    (folder / 'labels').mkdir(parents=True, exist_ok=True)
    (folder / 'data.yaml').write_text(f'path: .\ntrain: images\nnames: {list(names)}\n')
    for scene in scenes:
        lines = []
        for one in scene.objects:
            corners = np.array(one.polygons[0]) / (scene.width, scene.height)
            lines.append(f'{names.index(one.name)} ' + ' '.join(f'{value:.6f}' for value in corners.ravel()))
        (folder / 'labels' / scene.file_name).with_suffix('.txt').write_text('\n'.join(lines) + '\n')


def labelme_document(scene: Scene) -> dict:
    shapes = []
    for number, one in enumerate(scene.objects):
        base = {'label': one.name, 'group_id': None, 'flags': {}, 'description': ''}
        if one.mask is not None:
            rows, columns = np.where(one.mask.any(1))[0], np.where(one.mask.any(0))[0]
            x1, x2, y1, y2 = (int(value) for value in (columns[0], columns[-1], rows[0], rows[-1]))
            content = io.BytesIO()
            Image.fromarray(one.mask[y1 : y2 + 1, x1 : x2 + 1].astype(np.uint8)).save(content, 'PNG')
            points = [[float(x1), float(y1)], [float(x2), float(y2)]]
            mask = base64.b64encode(content.getvalue()).decode()
            shapes.append({**base, 'points': points, 'shape_type': 'mask', 'mask': mask})
            continue
        base['group_id'] = number if len(one.polygons) > 1 else None
        shapes += [{**base, 'points': list(map(list, some)), 'shape_type': 'polygon'} for some in one.polygons]
    return {
        'version': '5.5.0',
        'flags': {},
        'shapes': shapes,
        'imagePath': f'..\\images\\{scene.file_name}',
        'imageData': None,
        'imageHeight': scene.height,
        'imageWidth': scene.width,
    }


def write_labelme(folder: Path, scenes: list[Scene]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        (folder / scene.file_name).with_suffix('.json').write_text(json.dumps(labelme_document(scene)))


def cvat_text(scenes: list[Scene], names=CLASSES) -> str:
    labels = ''.join(f'<label><name>{name}</name><type>any</type></label>' for name in names)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', '<annotations><version>1.1</version>']
    lines.append(f'<meta><task><name>t</name><labels>{labels}</labels></task></meta>')
    for i, scene in enumerate(scenes):
        lines.append(f'<image id="{i}" name={quoteattr(scene.file_name)} width="{scene.width}" height="{scene.height}">')
        for number, one in enumerate(scene.objects, 1):
            common = f'label="{one.name}" source="manual" occluded="0" z_order="{number}"'
            if one.mask is not None:
                rows, columns = np.where(one.mask.any(1))[0], np.where(one.mask.any(0))[0]
                part = one.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                rle = ', '.join(map(str, runs_of(part.ravel())))
                place = f'left="{columns[0]}" top="{rows[0]}" width="{part.shape[1]}" height="{part.shape[0]}"'
                lines.append(f'<mask {common} rle="{rle}" {place}></mask>')
            group = f'group_id="{number}"' if len(one.polygons) > 1 else ''
            for polygon in one.polygons:
                points = ';'.join(f'{x:.2f},{y:.2f}' for x, y in polygon)
                lines.append(f'<polygon {common} points="{points}" {group}></polygon>')
        lines.append('</image>')
    return '\n'.join([*lines, '</annotations>\n'])


def via_regions(scene: Scene, attribute: str = 'type') -> list[dict]:
    return [
        {
            'shape_attributes': {
                'name': 'polygon',
                'all_points_x': [x for x, _ in one.polygons[0]],
                'all_points_y': [y for _, y in one.polygons[0]],
            },
            'region_attributes': {attribute: one.name},
        }
        for one in scene.objects
    ]


def via_document(scenes: list[Scene], names=CLASSES) -> dict:
    entries = {
        f'{scene.file_name}123': {
            'filename': scene.file_name,
            'size': 123,
            'regions': via_regions(scene),
            'file_attributes': {},
        }
        for scene in scenes
    }
    options = {'type': 'radio', 'description': '', 'options': dict.fromkeys(names, '')}
    return {'_via_settings': {}, '_via_img_metadata': entries, '_via_attributes': {'region': {'type': options}, 'file': {}}}


def write_via_csv(path: Path, scenes: list[Scene]) -> None:
    columns = ['filename', 'file_size', 'file_attributes', 'region_count', 'region_id']
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([*columns, 'region_shape_attributes', 'region_attributes'])
        for scene in scenes:
            regions = via_regions(scene)
            for i, region in enumerate(regions):
                cells = [json.dumps(region[key]) for key in ('shape_attributes', 'region_attributes')]
                writer.writerow([scene.file_name, 123, '{}', len(regions), i, *cells])


def label_map(scene: Scene, objects: list[Drawn], dtype=np.uint16) -> np.ndarray:
    """Objects numbered from 1; those that lie under others lose pixels."""
    values = np.zeros((scene.height, scene.width), dtype)
    for number, one in enumerate(objects, 1):
        values[mask_of(one, scene)] = number
    return values


def write_map(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.tif':
        import tifffile

        tifffile.imwrite(path, values)
    else:
        Image.fromarray(values).save(path)


def write_class_folders(folder: Path, scenes: list[Scene], suffix: str = '.png', names=CLASSES) -> None:
    for scene in scenes:
        for name in names:
            objects = [one for one in scene.objects if one.name == name]
            write_map((folder / name / scene.file_name).with_suffix(suffix), label_map(scene, objects))
