"""Settings and annotations that cost people days: objects that count as crowds, and limits below the number of objects."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import Config

from mmext.analysis.findings import Finding, first
from mmext.check.instances import class_names
from mmext.check.ledger import cases
from mmext.check.parts import DataPart
from mmext.data.caps import COUNTED_BY_MAP, detection_cap, model_caps
from mmext.data.crowd import MOSTLY, NOTABLE, crowd_by_class

# Share of all objects of a part that a limit puts out of reach. 1 %: as mmext.SmallObjectsHook; 10 %: the figures no longer
# tell what the model can do.
_WARN_LOST, _SEVERE_LOST = 0.01, 0.1
# a single image of which more than this is out of reach is worth a warning as well
_WARN_IMAGE = 0.1
_PROPOSAL_NUMS = (100, 300, 1000)  # CocoMetric's default: COCOeval's maxDets
# proposals, or anchors before NMS, for each object: mmext.data.caps has what fewer find
_LEAST_AN_OBJECT = 2


@dataclass(frozen=True)
class _Counted:
    """A part's objects of the config's classes, by image id and None, and by image id and class; crowds are none."""

    name: str
    files: dict[int, str]
    by_image: Counter[tuple[int, None]]
    by_class: Counter[tuple[int, str]]


@dataclass(frozen=True)
class _Crowded:
    """An image with more objects than a limit; ``what`` they are, such as 'objects' or 'objects of Fiber'."""

    part: str
    image: str
    objects: int
    what: str = 'objects'


def check_traps(parts: Sequence[DataPart], cfg: Config) -> list[Finding]:
    """Find what makes a training or its figures worthless in silence.

    Args:
        parts: of the config, those with a ``coco``.
        cfg: the config.
    """
    parts = [part for part in parts if part.coco]
    findings = [finding for part in parts for finding in _crowds(part)]
    # of crops the network sees a part of an image's objects at a time
    counted = [_counted(part) for part in parts if not _in_crops(part)]
    for key, limit, what in _limits(cfg):
        chosen = [part for part in counted if part.name == 'train'] if '.train_cfg.' in key else counted
        findings += _over(key, limit, what, chosen)
    findings += _few_proposals(cfg, counted)
    return findings + _evaluator(cfg, [part for part in counted if part.name == 'val'])


def _in_crops(part: DataPart) -> bool:
    return any('Crop' in str(step.get('type')) for step in part.dataset.get('pipeline') or [])


def _crowds(part: DataPart) -> list[Finding]:
    findings = []
    names, classes = {category['id']: category['name'] for category in part.coco.categories}, class_names(part)
    for name, (crowd, total) in crowd_by_class(part.coco).items():
        if name not in classes or not crowd or crowd / total <= NOTABLE:
            continue
        mostly = crowd / total > MOSTLY
        done = 'trains on' if part.name == 'train' else 'measures the model against'
        text = (
            f'{crowd:,} of the {total:,} annotations of {name!r} ({crowd / total:.0%}) are iscrowd=1: MMDetection {done} '
            f'{"none" if crowd == total else "only the others"}, and leaves the crowds out as ignore regions.'
        )
        places = [i for i, a in enumerate(part.coco.annotations) if a.get('iscrowd') and names.get(a['category_id']) == name]
        remedy = 'If each is one object (CVAT writes masks so): mmext init ... --crowd-as-instances'
        code = 'class-mostly-crowd' if mostly else 'class-partly-crowd'
        severity = 'severe' if mostly else 'warning'
        findings.append(Finding(code, severity, text, crowd, cases(part, places), remedy, part.name))
    return findings


def _limits(cfg: Config) -> Iterator[tuple[str, int, str]]:
    """Config key, number, and of what: every limit on detections, proposals and queries an image."""
    model = cfg.get('model') or {}
    for key, value in _numbers(model, 'model'):
        name = key.rpartition('.')[2]
        if name in ('max_per_img', 'max_per_image') and ('.test_cfg.' in key or '.rpn_proposal.' in key):
            yield key, value, 'proposals' if '.rpn' in key else 'detections'
        elif name == 'num_queries':
            yield key, value, 'queries'


def _numbers(value: object, key: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f'{key}.{name}')
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _numbers(inner, f'{key}.{place}')
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:  # below 0: no limit
        yield key, value


def _counted(part: DataPart) -> _Counted:
    known = set(class_names(part))
    names = {category['id']: category['name'] for category in part.coco.categories}
    pairs = ((a['image_id'], names.get(a['category_id'])) for a in part.coco.annotations if not a.get('iscrowd'))
    by_class = Counter(pair for pair in pairs if pair[1] in known)
    by_image = Counter()
    for (image, _), count in by_class.items():
        by_image[image, None] += count
    return _Counted(part.name, {image['id']: image['file_name'] for image in part.coco.images}, by_image, by_class)


def _over(key: str, limit: int, what: str, parts: Sequence[_Counted]) -> list[Finding]:
    """A limit on an image's detections against the objects of the fullest images."""
    crowded, lost = _crowded(parts, limit, by_class=False)
    if not crowded:
        return []
    remedy = f'{key}={detection_cap(crowded[0].objects, limit)}'
    return [_finding('limit-below-objects', f'{key}={limit} {what} are kept', limit, crowded, lost, remedy)]


def _few_proposals(cfg: Config, parts: Sequence[_Counted]) -> list[Finding]:
    """Limits of the RPN that the objects of the fullest image leave too little of, though more than one for each."""
    fullest = {part.name: (part, *part.by_image.most_common(1)[0]) for part in parts if part.by_image}
    if not fullest:
        return []
    of_all = max(fullest.values(), key=lambda one: one[2])
    of_train = fullest.get('train', of_all)
    findings = []
    for cap in model_caps(cfg.get('model') or {}, of_train[2], of_all[2]):
        part, (image, _), objects = of_train if '.train_cfg.' in cap.key else of_all
        certain = cap.name == 'max_per_img' and cap.value < objects  # of which _over tells
        if '.rpn' in cap.key and cap.value < _LEAST_AN_OBJECT * objects and not certain:
            text = (
                f'Image {image} ({part.files[image]}) of {part.name} has {objects:,} objects, and {cap.key}={cap.value} '
                f'{cap.what} are kept: {cap.value / objects:.1f} for each. A trained RPN had a proposal for 83 % of the '
                'objects with one, for 98 % with two, for all with four.'
            )
            findings.append(Finding('few-proposals', 'warning', text, 1, (), f'{cap.key}={cap.needed}', 'config'))
    return findings


def _crowded(parts: Sequence[_Counted], limit: int, by_class: bool) -> tuple[list[_Crowded], dict[str, float]]:
    """Images with more objects than a limit, the fullest first, and by part the share of objects that is out of reach."""
    crowded, lost = [], {}
    for part in parts:
        counts = part.by_class if by_class else part.by_image
        for (image, name), count in counts.items():
            if count > limit:
                what = 'objects' if name is None else f'objects of {name!r}'
                crowded.append(_Crowded(part.name, f'{image} ({part.files[image]})', count, what))
        out_of_reach = sum(max(count - limit, 0) for count in counts.values())
        lost[part.name] = max(lost.get(part.name, 0), out_of_reach / max(counts.total(), 1))
    return sorted(crowded, key=lambda one: -one.objects), lost


def _finding(code: str, text: str, limit: int, crowded: list[_Crowded], lost: dict, remedy: str) -> Finding:
    worst = crowded[0]
    name, share = max(lost.items(), key=lambda item: item[1])
    recall = limit / worst.objects
    if share > _SEVERE_LOST:
        severity = 'severe'
    else:
        severity = 'warning' if share > _WARN_LOST or 1 - recall > _WARN_IMAGE else 'information'
    text = (
        f'Image {worst.image} of {worst.part} has {worst.objects:,} {worst.what}, and {text}: at most {recall:.0%} recall '
        f'there, at most {1 - share:.1%} over {name}.'
    )
    examples = first(f'image {one.image} of {one.part}: {one.objects:,} {one.what}' for one in crowded)
    return Finding(code, severity, text, len(crowded), examples, remedy, 'config')


def _evaluator(cfg: Config, parts: Sequence[_Counted]) -> list[Finding]:
    """What COCO's numbers count at most: limits for each class of an image."""
    evaluators = cfg.get('val_evaluator') or []
    evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
    findings = []
    for place, evaluator in enumerate(evaluators):
        if str(evaluator.get('type')).rpartition('.')[2] != 'CocoMetric':
            continue
        key = 'val_evaluator' if isinstance(cfg.val_evaluator, dict) else f'val_evaluator.{place}'
        if COUNTED_BY_MAP not in _proposal_nums(evaluator) and evaluator.get('max_detections') is None:
            numbers = _proposal_nums(evaluator)
            text = f'{key}.proposal_nums={numbers} lacks {COUNTED_BY_MAP}, at which COCOeval computes mAP: it will be -1.'
            remedy = f'{key}.proposal_nums="{_PROPOSAL_NUMS}"'.replace(' ', '')
            findings.append(Finding('map-undefined', 'severe', text, 1, (), remedy, 'config'))
        for limit, text, remedy in _counted_at_most(evaluator, key):
            crowded, lost = _crowded(parts, limit, by_class=True)
            if crowded:
                remedy = remedy.format(detection_cap(crowded[0].objects, limit))
                findings.append(_finding('evaluator-limit-below-objects', text, limit, crowded, lost, remedy))
    return findings


def _proposal_nums(evaluator: Mapping) -> tuple[int, ...]:
    return tuple(sorted(evaluator.get('proposal_nums') or _PROPOSAL_NUMS))  # as COCOeval sorts them


def _counted_at_most(evaluator: Mapping, key: str) -> Iterator[tuple[int, str, str]]:
    """Limits of a CocoMetric: number, what it limits, and the remedy with a place for another number."""
    most, highest = evaluator.get('max_detections'), _proposal_nums(evaluator)[-1]
    best = f'Go by AP50 and AP75, which count {highest}: default_hooks.checkpoint.save_best=coco/segm_mAP_50'
    of_map, of_all = best, f'{key}.proposal_nums="(100,300,{{}})"'
    if str(evaluator.get('type')).startswith('mmext.'):
        of_map = of_all = f'{key}.max_detections={{}}'
    if most is not None:
        yield most, f'AP counts at most {most} of a class', of_all
    else:
        yield COUNTED_BY_MAP, f'mAP counts at most {COUNTED_BY_MAP} of a class', of_map
        yield highest, f'AP50 and AP75 count at most {highest} of a class', of_all
