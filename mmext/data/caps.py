"""Limits on what a model keeps of an image, held against the objects of the fullest one. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# For each object of the fullest image: proposals, and anchors of a level of the FPN that go into NMS. With 4 of both a
# trained RPN has a proposal for all objects, with 2 for 98 %, with 1 for 83 % (benchmarks/data/many_objects.py, IoU 0.5).
# Anchors are twice as many: those of the faintest objects are the first to be left out.
PROPOSALS_AN_OBJECT = 4
ANCHORS_AN_OBJECT = 8
# detections of a class in an image that COCO's mAP counts (COCOeval.summarize)
COUNTED_BY_MAP = 100
DETECTIONS = 'detections of an image'


@dataclass(frozen=True)
class Cap:
    """A limit of a model's config: its ``key`` (``model.test_cfg.rcnn.max_per_img``), its ``value``, the ``needed`` one, and
    ``what`` it limits."""

    key: str
    value: int
    needed: int
    what: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition('.')[2]

    @property
    def is_low(self) -> bool:
        """Whether more is needed."""
        return self.needed > self.value


def in_fifties(number: float) -> int:
    """The next multiple of fifty."""
    return int(-(-number // 50) * 50)


def detection_cap(most: int, cap: int) -> int:
    """Detections an image to keep: a cap, or a quarter above the most objects in one image, in fifties."""
    return max(cap, in_fifties(most * 5 / 4))


def model_caps(model: Mapping, train_most: int, most: int) -> list[Cap]:
    """Every limit on the detections and the proposals of an image, with what so many objects need.

    A limit below 0 is none. What training draws in a step (``sampler.num``) is no limit: it is drawn anew each time.

    Args:
        model: of a config, with its ``train_cfg`` and ``test_cfg``.
        train_most: objects in the fullest training image.
        most: in the fullest image of all.
    """
    train_cfg, test_cfg = model.get('train_cfg') or {}, model.get('test_cfg') or {}
    caps = [*_detections(test_cfg, 'model.test_cfg', most)]
    caps += proposal_caps(test_cfg.get('rpn') or {}, 'model.test_cfg.rpn', most)
    caps += proposal_caps(train_cfg.get('rpn_proposal') or {}, 'model.train_cfg.rpn_proposal', train_most)
    return caps


def _detections(test_cfg: Mapping, key: str, most: int) -> Iterator[Cap]:
    for name, value in test_cfg.items():
        if isinstance(value, Mapping) and name != 'rpn':
            yield from _detections(value, f'{key}.{name}', most)
    cap = test_cfg.get('max_per_img', -1)
    if cap <= 0:
        return
    needed = detection_cap(most, cap)
    yield Cap(f'{key}.max_per_img', cap, needed, DETECTIONS)
    before = test_cfg.get('nms_pre', -1)
    if before > 0:  # a family without an RPN: in the proportion that the recipe has them
        yield Cap(f'{key}.nms_pre', before, -(-before * needed // cap), 'candidates for them')


def proposal_caps(settings: Mapping, key: str, most: int) -> Iterator[Cap]:
    """The limits of an RPN's settings, which stand at ``key``, with what so many objects in an image need."""
    limits = {
        'max_per_img': (PROPOSALS_AN_OBJECT, 'proposals of an image'),
        'nms_pre': (ANCHORS_AN_OBJECT, 'anchors of a level that become proposals'),
    }
    for name, (an_object, what) in limits.items():
        value = settings.get(name, -1)
        if value > 0:
            yield Cap(f'{key}.{name}', value, max(value, in_fifties(an_object * most)), what)


def as_changes(caps: list[Cap]) -> dict:
    """What a child config sets: nested dicts below ``model``, of the limits that are too low."""
    changes: dict = {}
    for cap in caps:
        if cap.is_low:
            _, *path, name = cap.key.split('.')
            place = changes
            for step in path:
                place = place.setdefault(step, {})
            place[name] = cap.needed
    return changes
