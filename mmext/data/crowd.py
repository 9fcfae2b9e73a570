"""Annotations marked as crowd regions (``iscrowd=1``), on which MMDetection does not train. No torch."""

from collections import Counter

from mmext.data.coco_file import CocoFile, has_outline

# of a class; in COCO itself about 1 % of the annotations are crowds
MOSTLY = 0.5
NOTABLE = 0.1


def crowd_by_class(coco: CocoFile) -> dict[str, tuple[int, int]]:
    """Category name to its number of crowd annotations and of all, in the order of the file."""
    total = Counter(annotation['category_id'] for annotation in coco.annotations)
    crowd = Counter(annotation['category_id'] for annotation in coco.annotations if annotation.get('iscrowd'))
    return {category['name']: (crowd[category['id']], total[category['id']]) for category in coco.categories}


def as_instances(document: dict) -> tuple[dict, int]:
    """A copy of a COCO document in which crowd annotations with a mask are objects, and how many were changed.

    CVAT writes every mask as an RLE with ``iscrowd=1``, and supervision every mask with a hole, although each is one object.
    A crowd without a mask stays one: nothing tells the shape of what is in it.
    """
    changed = 0
    annotations = []
    for annotation in document['annotations']:
        if annotation.get('iscrowd') and has_outline(annotation.get('segmentation')):
            annotation = {**annotation, 'iscrowd': 0}
            changed += 1
        annotations.append(annotation)
    return {**document, 'annotations': annotations}, changed
