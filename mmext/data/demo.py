"""Made microscope images of particles: the same bytes for the same seed, with exact outlines. No torch.

Bright-field look: uneven illumination, grain, out-of-focus specks. Fibers are curved and 3 to 7 px wide, fragments angular
and dark, films large and translucent; they overlap, and the border cuts some of them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmext.errors import InputError

SIDE = 256
_SUB_PIXEL_BITS = 6  # cv2 takes coordinates in 1/64 px

Outline = np.ndarray  # (P, 2), x then y in pixels, 0 at the left and top edge of the image


def fiber(rng: np.random.Generator) -> Outline:
    """A curved band, 3 to 7 px wide and 60 to 180 px long."""
    width, length = rng.uniform(3, 7), rng.uniform(60, 180)
    steps = 40
    # a slowly turning heading never bends tighter than the band is wide, so the outline does not cross itself
    turn = rng.uniform(-1, 1) * 1.6 / steps + 0.035 * np.sin(np.linspace(0, rng.uniform(1, 6), steps) + rng.uniform(0, 6))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
    line = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * length / steps, axis=0)
    line += rng.uniform(0, SIDE, 2) - line.mean(0)
    side = np.stack([-np.sin(heading), np.cos(heading)], 1) * width / 2
    return np.concatenate([line + side, (line - side)[::-1]])


def fragment(rng: np.random.Generator) -> Outline:
    """An angular piece of 12 to 45 px with 4 to 8 corners."""
    corners = rng.integers(4, 9)
    angle = np.sort((np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners)
    radius = rng.uniform(6, 22) * rng.uniform(0.65, 1.0, corners)
    return _round(angle + rng.uniform(0, 2 * np.pi), radius, rng)


def film(rng: np.random.Generator) -> Outline:
    """A smooth, large sheet of 50 to 130 px."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    wave = sum(rng.uniform(0, 0.16) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4))
    return _round(angle, rng.uniform(25, 60) * (1 + wave), rng)


def _round(angle: np.ndarray, radius: np.ndarray, rng: np.random.Generator) -> Outline:
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1) + rng.uniform(0, SIDE, 2)


def disk(rng: np.random.Generator) -> Outline:
    """An ellipse of 14 to 60 px."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    long, share, turn = rng.uniform(7, 30), rng.uniform(0.5, 1), rng.uniform(0, np.pi)
    x, y = long * np.cos(angle), long * share * np.sin(angle)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1) + rng.uniform(0, SIDE, 2)


def rod(rng: np.random.Generator) -> Outline:
    """A straight bar, 8 to 16 px wide and 30 to 90 px long."""
    half, turn = np.array([rng.uniform(15, 45), rng.uniform(4, 8)]), rng.uniform(0, np.pi)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return corners @ rotation + rng.uniform(0, SIDE, 2)


def star(rng: np.random.Generator) -> Outline:
    """A star of 4 to 7 points, 20 to 60 px."""
    points = rng.integers(4, 8)
    angle = np.arange(2 * points) * np.pi / points + rng.uniform(0, 2 * np.pi)
    radius = rng.uniform(10, 30) * np.where(np.arange(2 * points) % 2, rng.uniform(0.35, 0.6), 1)
    return _round(angle, radius, rng)


def crescent(rng: np.random.Generator) -> Outline:
    """A thick arc of 24 to 70 px."""
    span = rng.uniform(1.5, 3.5)
    angle = np.linspace(0, span, 24) + rng.uniform(0, 2 * np.pi)
    outer = rng.uniform(12, 35)
    thickness = outer * 0.45 * np.sin(np.linspace(0.15, np.pi - 0.15, 24))
    return _round(np.concatenate([angle, angle[::-1]]), np.concatenate([np.full(24, outer), (outer - thickness)[::-1]]), rng)


# name: outline, least and most per image, range of opacity, range of grey value
Kind = tuple[Callable[[np.random.Generator], Outline], tuple[int, int], tuple[float, float], tuple[float, float]]
PARTICLES: dict[str, Kind] = {
    'Fiber': (fiber, (1, 4), (0.55, 0.85), (40, 90)),
    'Fragment': (fragment, (2, 5), (0.7, 0.95), (30, 100)),
    'Film': (film, (1, 2), (0.15, 0.3), (90, 130)),
}
# what the shipped source model has learnt: other classes of other shapes
SHAPES: dict[str, Kind] = {
    'Disk': (disk, (1, 3), (0.3, 0.9), (30, 130)),
    'Rod': (rod, (1, 3), (0.3, 0.9), (30, 130)),
    'Star': (star, (1, 3), (0.3, 0.9), (30, 130)),
    'Crescent': (crescent, (1, 3), (0.3, 0.9), (30, 130)),
}
KINDS = {'particles': PARTICLES, 'shapes': SHAPES}


def cut_at_border(outline: Outline, width: int = SIDE, height: int = SIDE) -> Outline:
    """The part of an outline inside the image (Sutherland and Hodgman 1974); (0, 2) when all of it is outside."""
    for axis, sign, limit in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):
        inside = outline[:, axis] * sign >= limit
        points = []
        for i in range(len(outline)):
            here, there = outline[i - 1], outline[i]
            if inside[i - 1] != inside[i]:
                share = (limit * sign - here[axis]) / (there[axis] - here[axis])
                points.append(here + share * (there - here))
            if inside[i]:
                points.append(there)
        outline = np.array(points).reshape(-1, 2)
    return outline


def background(rng: np.random.Generator) -> np.ndarray:
    """Bright field: a tilted and vignetted field with blurred specks; (SIDE, SIDE), grey value 0 to 255 as float32."""
    import cv2

    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5
    field = rng.uniform(185, 215) + rng.uniform(-25, 25) * x + rng.uniform(-25, 25) * y - rng.uniform(20, 60) * (x**2 + y**2)
    for blur, strength in ((24, 60), (8, 25), (2, 6)):  # debris out of focus, texture, grain
        noise = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
        field += strength * cv2.GaussianBlur(noise, (0, 0), blur)
    return field


def draw(image: np.ndarray, outline: Outline, opacity: float, grey: float, rng: np.random.Generator) -> None:
    """Blend an object into the image, with an anti-aliased edge, a rim a little darker and grain of its own."""
    import cv2

    # cv2 puts the centre of the first pixel at 0, the outline its edge
    points = np.round((outline - 0.5) * 2**_SUB_PIXEL_BITS).astype(np.int32)
    cover = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(cover, [points], 255, cv2.LINE_AA, _SUB_PIXEL_BITS)
    alpha = cover.astype(np.float32) / 255
    rim = np.clip(alpha - cv2.GaussianBlur(alpha, (0, 0), 1.5), 0, 1)
    grain = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), 1.5) * 12
    mix = alpha * opacity
    image += mix * (grey + grain - image) - 90 * rim * opacity


def make_image(rng: np.random.Generator, kinds: dict) -> tuple[np.ndarray, list[tuple[int, Outline]]]:
    """One image, (SIDE, SIDE, 3) uint8 in BGR, and its objects: (class index, outline cut at the border).

    Objects of which less than 30 px² lie inside the image are left out, of the picture too.
    """
    import cv2

    image = background(rng)
    objects = []
    for label, (outline_of, (least, most), opacities, greys) in enumerate(kinds.values()):
        for _ in range(rng.integers(least, most + 1)):
            outline = cut_at_border(outline_of(rng))
            if len(outline) >= 3 and cv2.contourArea(outline.astype(np.float32)) >= 30:
                objects.append((label, outline, rng.uniform(*opacities), rng.uniform(*greys)))
    for position in rng.permutation(len(objects)):
        _, outline, opacity, grey = objects[position]
        draw(image, outline, opacity, grey, rng)
    grey = cv2.GaussianBlur(image, (0, 0), 0.7) + rng.standard_normal((SIDE, SIDE)).astype(np.float32) * 2.5
    tint = np.array([0.97, 1.0, 1.02], np.float32)
    picture = np.clip(np.round(grey[..., None] * tint), 0, 255).astype(np.uint8)
    return picture, [(label, outline) for label, outline, _, _ in objects]


def coco_shape(outline: Outline, width: int = SIDE, height: int = SIDE) -> dict:
    """What an annotation of COCO says of an outline in an image of this size."""
    from pycocotools import mask as coco_mask

    polygon = np.round(outline, 2).ravel().tolist()
    rle = coco_mask.merge(coco_mask.frPyObjects([polygon], height, width))
    low, high = outline.min(0), outline.max(0)
    return {
        'segmentation': [polygon],
        'bbox': np.round([*low, *(high - low)], 2).tolist(),
        'area': int(coco_mask.area(rle)),
        'iscrowd': 0,
    }


def write_part(folder: Path, images: int, seed: Sequence[int], kinds: dict = PARTICLES) -> Iterator[int]:
    """Write one part, images and ``annotations.json``; yields after each image, for a progress bar.

    Args:
        folder: made when it is not there.
        images: how many.
        seed: entropy of the part. Image i is the same whatever the number of images.
        kinds: the classes, as ``PARTICLES``.
    """
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for i in range(images):
        picture, objects = make_image(np.random.default_rng([*seed, i]), kinds)
        name = f'{i:04d}.png'
        if not cv2.imwrite(str(folder / name), picture):
            raise InputError(f'{folder / name}: cannot be written. Is the disk full, or the folder read-only?')
        entries.append({'id': i + 1, 'file_name': name, 'width': SIDE, 'height': SIDE})
        for label, outline in objects:
            shape = coco_shape(outline)
            if shape['area']:
                annotations.append({'id': len(annotations) + 1, 'image_id': i + 1, 'category_id': label + 1, **shape})
        yield i
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(kinds)]
    document = {'images': entries, 'annotations': annotations, 'categories': categories}
    (folder / 'annotations.json').write_text(json.dumps(document) + '\n')
