"""A config for a person's own COCO files: everything that can be read off the files is written, with its reason."""

import json
import os
import pprint
from dataclasses import replace
from pathlib import Path

import mmext
from mmext.data.coco_file import (
    CocoFile,
    check_for_training,
    class_difference,
    count_by_class,
    dropped_in_training,
    objects_per_image,
    read_coco,
)
from mmext.data.crowd import NOTABLE, as_instances, crowd_by_class
from mmext.errors import InputError, raise_all, some

# semantic heads count the classes of a stuff map, backbones those that they were pretrained on, not the instances'
OTHER_CLASSES = ('FusedSemanticHead', 'VGG')


def with_num_classes(model: object, num_classes: int) -> object:
    """The part of a model's config that says how many classes there are, with another number.

    Lists of heads (Cascade) come back in full, since a list in a child config replaces the parent's. None when nothing in
    ``model`` counts classes.
    """
    if isinstance(model, dict):
        if model.get('type') in OTHER_CLASSES:
            return None
        found = {key: with_num_classes(value, num_classes) for key, value in model.items() if key != 'rpn_head'}
        found = {key: value for key, value in found.items() if value is not None}
        if 'num_classes' in model:
            found['num_classes'] = num_classes
        return found or None
    if isinstance(model, (list, tuple)) and any(with_num_classes(item, num_classes) for item in model):
        return [_merge(item, with_num_classes(item, num_classes) or {}) for item in model]
    return None


def _merge(base: object, changes: dict) -> object:
    if not isinstance(base, dict):
        return base
    plain = {key: _plain(value) for key, value in base.items()}
    return plain | {k: _merge(plain[k], v) if isinstance(v, dict) else v for k, v in changes.items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def detection_cap(most: int, cap: int) -> int:
    """Detections an image to keep: the recipe's cap, or a quarter above the most objects in one image, in fifties."""
    return max(cap, -(-most * 5 // 4 // 50) * 50)


def with_detection_caps(test_cfg: dict, most: int) -> dict:
    """The caps of a recipe's ``test_cfg`` that are too low for ``most`` objects in one image, raised."""
    raised = {}
    for key, value in test_cfg.items():
        if isinstance(value, dict):
            inner = with_detection_caps(value, most)
            if inner:
                raised[key] = inner
        elif key == 'max_per_img' and detection_cap(most, value) > value:
            raised[key] = detection_cap(most, value)
    return raised


def portable(path: Path, config: Path) -> str:
    """A path for the config: from the config's own folder when the path lies in it, else absolute.

    MMEngine pastes the folder's name into the text of the config, so a quote in it would end the string there.
    """
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(config)).parent  # noqa: PTH100 - links are kept
    movable = path.is_relative_to(folder) and not set('\'"\\') & set(str(folder))
    return f'{{{{fileDirname}}}}/{path.relative_to(folder).as_posix()}' if movable else path.as_posix()


def copy_path(out: Path, part: str) -> Path:
    """Where the annotations of a part without crowds are written, beside the config that uses them."""
    return out.with_name(f'{out.stem}_{part}_crowd-as-instances.json')


def write_config(
    train: tuple[Path, Path],
    val: tuple[Path, Path],
    recipe: str,
    out: Path,
    batch_size: int | None = None,
    crowd_as_instances: bool = False,
) -> list[str]:
    """Check the files, write the config and say what was found.

    Args:
        train: COCO file and image folder to train on.
        val: the same for validation.
        recipe: name of a shipped recipe.
        out: config to write.
        batch_size: images a step over all GPUs; None takes the recipe's.
        crowd_as_instances: use copies of the COCO files, written beside the config, in which every ``iscrowd=1`` with a mask
            is 0. The files themselves are left as they are.

    Returns:
        Lines for the person: what is in the data, and the next commands.

    Raises:
        InputError: all that is wrong with the files, at once.
    """
    base = mmext.recipe(recipe)
    if out.suffix != '.py':
        raise InputError(f'--out: {out} must end in .py: MMDetection reads it as a Python config.')
    files, copies = [], {}
    parts = {'train': train, 'val': val}
    mistakes, remarks = [], []
    for part, (ann_file, folder) in parts.items():
        try:
            coco = read_coco(ann_file)
        except InputError as error:
            mistakes.append(str(error))
            continue
        if not crowd_as_instances:
            remarks += _crowd_lines(coco, part)
        else:
            coco, text, line = _without_crowd(coco, copy_path(out, part))
            remarks.append(line)
            if text:
                copies[coco.path] = text
                parts[part] = coco.path, folder
        files.append(coco)
        mistakes += check_for_training(coco, folder)
    if len(files) == 2:
        mistakes += class_difference(*files)
    raise_all(mistakes)
    from mmengine.config import Config

    cfg = Config.fromfile(base)
    images = len(files[0].images)
    if batch_size and batch_size > images:
        raise InputError(f'--batch-size: {batch_size} is more than the {images} training images.')
    batch_size = batch_size or min(cfg.train_dataloader.batch_size, images)
    text, lines = _config_text(cfg, files, tuple(parts.values()), recipe, out, batch_size, remarks)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, document in copies.items():
        path.write_text(document, encoding='utf-8')
    out.write_text(text, encoding='utf-8')
    return lines


def _crowd_lines(coco: CocoFile, part: str) -> list[str]:
    """Classes that are crowd regions to a notable part, and the option that makes objects of them."""
    crowded = [f'{crowd} of {n} {name}' for name, (crowd, n) in crowd_by_class(coco).items() if crowd > NOTABLE * n]
    if not crowded:
        return []
    use = 'does not train on them' if part == 'train' else 'measures nothing against them'
    return [
        f'  {coco.path}: crowd regions (iscrowd=1): {some(crowded)}. MMDetection {use}. If each is one object (CVAT writes '
        'masks so), run this again with --crowd-as-instances --force.'
    ]


def _without_crowd(coco: CocoFile, copy: Path) -> tuple[CocoFile, str | None, str]:
    """The file without crowds, the text of its copy, None when there is nothing to change, and what to say of it."""
    document, changed = as_instances(json.loads(coco.path.read_text(encoding='utf-8-sig')))
    if not changed:
        return coco, None, f'  {coco.path}: no annotation is iscrowd=1 with a mask, so it is used as it is.'
    left = sum(bool(annotation.get('iscrowd')) for annotation in document['annotations'])
    rest = f' {left} crowds without a mask stay as they are.' if left else ''
    line = (
        f'  {coco.path}: {changed} of {len(coco.annotations)} annotations are set from iscrowd=1 to 0 in a copy, {copy}. '
        f'The file itself is left as it is.{rest}'
    )
    return replace(coco, path=copy, annotations=document['annotations']), json.dumps(document, ensure_ascii=False), line


def _config_text(
    cfg, files: list[CocoFile], parts: tuple, recipe: str, out: Path, batch_size: int, remarks: list[str]
) -> tuple[str, list[str]]:
    train, val = files
    most = max(count for file in files for count in objects_per_image(file).values())
    model = dict(with_num_classes(cfg.model, len(train.classes)) or {})
    caps = with_detection_caps(cfg.model.get('test_cfg') or {}, most)
    if caps:
        model['test_cfg'] = caps
    base_batch, base_rate = cfg.auto_scale_lr.base_batch_size, cfg.optim_wrapper.optimizer.lr
    rate = float(f'{base_rate * batch_size / base_batch:.6g}')
    val_batch = min(cfg.val_dataloader.batch_size, len(val.images))
    val_file = portable(parts[1][0], out)
    text = f"""# Written by `mmext init` from {train.path.name} and {val.path.name}; yours to change.
_base_ = __import__('mmext').recipe({recipe!r})

num_classes = {len(train.classes)}
class_names = {train.classes!r}
metainfo = dict(classes=class_names, palette='random')

# To train on: {len(train.images)} images, {len(train.annotations)} objects.
train_dataloader = {_loader(parts[0], out, batch_size)}
# To validate on: {len(val.images)} images, {len(val.annotations)} objects.
val_dataloader = {_loader(parts[1], out, val_batch)}
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={val_file!r})
test_evaluator = val_evaluator

# Linear rule: the recipe's {base_rate:g} is for a batch of {base_batch}.
# {base_rate:g} * {batch_size} / {base_batch} = {rate:g}
# That is for one GPU; on several, `mim train ... --auto-scale-lr` multiplies the rate by their number.
optim_wrapper = dict(optimizer=dict(lr={rate!r}))
auto_scale_lr = dict(base_batch_size={batch_size})

# At most {most} objects in one image: {_cap_reason(cfg, most)}
# COCO's mAP itself looks at the best 100 detections of a class in an image, its AP50 and AP75 at the best 1000.
model = {pprint.pformat(_plain(model), width=110, sort_dicts=False)}
"""
    counts, val_counts = count_by_class(train), count_by_class(val)
    lines = [f'{len(train.images)} training and {len(val.images)} validation images, at most {most} objects in one.']
    lines += [f'  {name}: {counts[name]} and {val_counts[name]} objects' for name in train.classes]
    lines += [f'  {name} has no object to train on.' for name in train.classes if not counts[name]]
    lines += remarks
    for file in files:
        dropped = dropped_in_training(file)
        if dropped:
            where = some(f'annotation {a["id"]}' for a in dropped)
            lines.append(
                f'  {file.path}: MMDetection drops {len(dropped)} (ignored, area 0, under 1 px or outside): {where}'
            )
    lines += [f'Wrote {out}. Next:', f'  mmext check {out}', f'  mmext groups {out} --schedule', f'  mim train mmdet {out}']
    return text, lines


def _loader(part: tuple[Path, Path], out: Path, batch_size: int) -> str:
    ann_file, folder = part
    return f"""dict(
    batch_size={batch_size},
    dataset=dict(
        data_root='',
        ann_file={portable(ann_file, out)!r},
        data_prefix=dict(img={portable(folder, out) + '/'!r}),
        metainfo=metainfo))"""


def _cap_reason(cfg, most: int) -> str:
    test_cfg = cfg.model.test_cfg
    usual = (test_cfg.get('rcnn') or test_cfg).max_per_img
    cap = detection_cap(most, usual)
    return f'{cap} detections are kept instead of {usual}.' if cap > usual else f'{usual} detections are kept, as usual.'
