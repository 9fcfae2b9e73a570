"""The instances of an image in the forms that other programs read. No torch."""

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import draw, window_of
from mmext.analysis.overlay import COLOURS
from mmext.errors import InputError
from mmext.predict.instances import Instances

MOST_IDS = 2**16 - 1  # of a map of 16 bits; 0 is the background
TABLE_COLUMNS = ('id', 'class', 'label', 'score', 'area_px', 'shown_px')
# An outline with fewer corners, at most so many pixels away, is easier to correct by hand. It is taken when the mask that it
# draws has an IoU of so much or more with the one that was found; the full outline, or an RLE, otherwise.
_TOLERANCE, _LEAST_IOU = 0.5, 0.95
_FILLED = 0.35  # how much of a colour covers the image
_FONT_PX = 12


# ---- arrays


def npz_bytes(instances: Instances) -> bytes:
    """An npz file: ``masks`` bool (N, H, W), ``labels`` int64 (N,), ``scores`` float32 (N,), ``boxes`` float32 (N, 4),
    ``class_names`` text. The same instances give the same bytes; one mask at a time is drawn."""
    file = io.BytesIO()
    arrays = {
        'labels': instances.labels.astype(np.int64),
        'scores': instances.scores.astype(np.float32),
        'boxes': instances.boxes.astype(np.float32).reshape(-1, 4),
        'class_names': np.array(instances.class_names, dtype=str),
    }
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        # an entry that is opened so is dated 1980
        with archive.open('masks.npy', 'w', force_zip64=True) as entry:
            header = {'descr': '|b1', 'fortran_order': False, 'shape': (len(instances), *map(int, instances.size))}
            np.lib.format.write_array_header_1_0(entry, header)
            for rle in instances.rles:
                entry.write(np.ascontiguousarray(coco_mask.decode(rle)).tobytes())
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return file.getvalue()


# ---- label maps


def instance_map(instances: Instances) -> np.ndarray:
    """One instance a pixel: 0 is background, the n-th of the list is n. Where instances overlap the higher score wins; of
    equal scores the one that stands first, as in :func:`mmext.analysis.label_map.instances_to_label_map`.

    Returns:
        (H, W) uint16.

    Raises:
        InputError: more than 65535 instances.
    """
    if len(instances) > MOST_IDS:
        raise InputError(
            f'label map: {len(instances)} instances; 16 bits number {MOST_IDS} of them. Raise --score-thr, cut the image '
            'into smaller ones, or write another format, such as coco-results.'
        )
    found = np.zeros(instances.size, np.uint16)
    for i in np.argsort(-instances.scores.astype(float), kind='stable')[::-1]:
        x1, y1, x2, y2 = window = window_of(instances.rles[i])
        found[y1:y2, x1:x2][draw(instances.rles[i], window).astype(bool)] = i + 1
    return found


def label_table(instances: Instances, numbers: np.ndarray) -> str:
    """What the numbers of a label map are, as CSV: id, class, label, score, pixels of the mask and those that are shown.

    Args:
        numbers: from :func:`instance_map`; an instance that others cover has fewer pixels there, or none.
    """
    shown = np.bincount(numbers.ravel(), minlength=len(instances) + 1)[1:]
    area = [coco_mask.area(rle) for rle in instances.rles]  # of a list of more than 255 pycocotools 2.0.11 cannot tell
    rows = [
        [i + 1, instances.class_names[label], int(label), f'{float(score):.6f}', int(area[i]), int(shown[i])]
        for i, (label, score) in enumerate(zip(instances.labels, instances.scores, strict=True))
    ]
    return csv_text(TABLE_COLUMNS, [dict(zip(TABLE_COLUMNS, row, strict=True)) for row in rows])


def csv_text(columns: Sequence[str], rows: Sequence[Mapping]) -> str:
    """Rows as CSV with a line of headings, numbers to eight digits; what a row does not have, or None, is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(
        {key: f'{value:.8g}' if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    return file.getvalue()


# ---- COCO


def coco_results(instances: Instances, image_id: int, file_name: str, category_ids: Sequence[int]) -> list[dict]:
    """Entries of a COCO results file, which ``COCO.loadRes`` reads.

    Args:
        image_id: of the annotation file that they will be compared with.
        file_name: written beside it, for people; COCO passes it over.
        category_ids: of each class, in the order of the labels.

    Returns:
        For each instance ``image_id``, ``category_id``, ``bbox`` x, y, width, height, ``score``, ``segmentation`` (RLE).
    """
    corners = instances.boxes.astype(float)
    return [
        {
            'image_id': image_id,
            'file_name': file_name,
            'category_id': category_ids[label],
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'score': float(instances.scores[i]),
            'segmentation': _text_rle(instances.rles[i]),
        }
        for i, (label, (x1, y1, x2, y2)) in enumerate(zip(instances.labels.tolist(), corners.tolist(), strict=True))
    ]


def coco_annotations(
    images: Sequence[tuple[int, str, Instances]], class_names: Sequence[str], category_ids: Sequence[int]
) -> dict:
    """A COCO annotation file, to correct by hand and train again.

    Polygons where they draw the mask well, RLE where they do not (holes, specks); never ``iscrowd``. ``bbox`` and ``area``
    are those of the mask. Instances without a pixel are left out. ``score`` stands beside them, so that the doubtful ones
    can be looked at first; MMDetection passes it over.

    Args:
        images: id, file name and instances of each.
        class_names: of all classes.
        category_ids: of each class.
    """
    annotations = []
    for image_id, _, instances in images:
        for label, score, rle in zip(instances.labels.tolist(), instances.scores, instances.rles, strict=True):
            area = int(coco_mask.area(rle))
            if area:
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': image_id,
                        'category_id': category_ids[label],
                        'bbox': coco_mask.toBbox(rle).tolist(),
                        'area': area,
                        'iscrowd': 0,
                        'segmentation': polygons(rle) or _text_rle(rle),
                        'score': float(score),
                    }
                )
    return {
        'images': [
            {'id': image_id, 'file_name': file_name, 'height': int(found.size[0]), 'width': int(found.size[1])}
            for image_id, file_name, found in images
        ],
        'annotations': annotations,
        'categories': [{'id': number, 'name': name} for number, name in zip(category_ids, class_names, strict=True)],
    }


def polygons(rle: Mapping) -> list[list[float]] | None:
    """Outlines of a mask, x and y in turn, in pixels from the image's corner; None where polygons do not draw it well."""
    from skimage.measure import approximate_polygon, find_contours

    window = window_of(rle)
    mask = np.pad(draw(rle, window), 1)
    own = coco_mask.encode(np.asfortranarray(mask[1:-1, 1:-1]))
    # half way between a pixel of the mask and one outside is the edge of both; a pixel's centre is half a pixel from its
    # corner, and the mask begins one pixel later
    edges = [contour[:, ::-1] - 0.5 for contour in find_contours(mask, 0.5, fully_connected='low')]
    for tolerance in (_TOLERANCE, 0):
        parts = [approximate_polygon(edge, tolerance)[:-1] for edge in edges]
        parts = [np.round(part, 2).ravel().tolist() for part in parts if len(part) >= 3]
        if parts and coco_mask.iou([own], [_drawn(parts, mask.shape)], [0])[0, 0] >= _LEAST_IOU:
            return [[value + window[i % 2] for i, value in enumerate(part)] for part in parts]
    return None


def _drawn(parts: list[list[float]], shape: tuple[int, int]) -> dict:
    return coco_mask.merge(coco_mask.frPyObjects(parts, shape[0] - 2, shape[1] - 2))


def _text_rle(rle: Mapping) -> dict:
    counts = rle['counts']
    return {'size': [int(side) for side in rle['size']], 'counts': counts.decode() if isinstance(counts, bytes) else counts}


# ---- pictures


def overlay(picture: np.ndarray, instances: Instances, scale: float = 1.0) -> np.ndarray:
    """The picture with each instance filled and outlined in its class's colour, its number, and the classes' names.

    Args:
        picture: (h, w, 3) uint8 BGR, at ``scale`` of the original's size.
        instances: in pixels of the original image; the best is drawn last. Their numbers are those of the table.
        scale: not above 1.

    Returns:
        (h + a line, w, 3) uint8 BGR.
    """
    import cv2

    shown = picture.copy()
    for i in range(len(instances))[::-1]:
        window = window_of(instances.rles[i])
        mask = draw(instances.rles[i], window)
        if not mask.size:
            continue
        left, top = round(window[0] * scale), round(window[1] * scale)
        if scale < 1:
            size = max(round(window[2] * scale) - left, 1), max(round(window[3] * scale) - top, 1)
            mask = (cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5).astype(np.uint8)
        part = shown[top : top + mask.shape[0], left : left + mask.shape[1]]
        mask = mask[: part.shape[0], : part.shape[1]]
        colour = np.array(COLOURS[int(instances.labels[i]) % len(COLOURS)][::-1], np.uint8)
        part[mask > 0] = (part[mask > 0] * (1 - _FILLED) + colour * _FILLED + 0.5).astype(np.uint8)
        edges, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top))
        cv2.drawContours(shown, edges, -1, colour.tolist(), 1, cv2.LINE_AA)
    for i in range(len(instances))[::-1]:
        x1, y1 = (instances.boxes[i, :2] * scale).round().astype(int).tolist()
        _write(shown, str(i + 1), x1, max(y1, _FONT_PX))
    return np.concatenate([shown, _legend(instances, shown.shape[1])])


def _legend(instances: Instances, width: int) -> np.ndarray:
    """Lines under the picture: each class with its colour and its number of instances."""
    import cv2

    counts = np.bincount(instances.labels, minlength=len(instances.class_names))
    line, x, places = 0, 4, []
    for label, name in enumerate(instances.class_names):
        # cv2's font has no letters beyond ASCII
        text = f'{name.encode("ascii", "replace").decode()} {counts[label]}'
        room = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0] + 28
        if x + room > width and x > 4:
            line, x = line + 1, 4
        places.append((label, text, line, x))
        x += room
    strip = np.full(((line + 1) * 20, width, 3), 255, np.uint8)
    for label, text, line, x in places:
        top = line * 20
        cv2.rectangle(strip, (x, top + 5), (x + 10, top + 15), COLOURS[label % len(COLOURS)][::-1], cv2.FILLED)
        cv2.putText(strip, text, (x + 15, top + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _write(picture: np.ndarray, text: str, x: int, y: int) -> None:
    """Small white text with a dark rim, which is read on bright and dark."""
    import cv2

    shifts = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
    for (dx, dy), colour in [*((shift, (0, 0, 0)) for shift in shifts), ((0, 0), (255, 255, 255))]:
        cv2.putText(picture, text, (x + dx, y - 2 + dy), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)


def png_bytes(picture: np.ndarray) -> bytes:
    """A picture, (H, W) uint8 or uint16 or (H, W, 3) uint8 BGR, as a PNG."""
    import cv2

    return cv2.imencode('.png', picture)[1].tobytes()
