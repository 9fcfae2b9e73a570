"""A config for a person's own data: everything that can be read off the annotations is written, with its reason."""

import os
import pprint
from collections.abc import Sequence
from pathlib import Path

import mmext
from mmext.atomic_file import write_atomically
from mmext.data.coco_file import count_by_class, dropped_in_training, objects_per_image
from mmext.data.formats.content import Asked
from mmext.data.split import Part, check_targets, encoded, read_parts, split_part
from mmext.errors import InputError, some

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


def write_config(
    train: tuple[Path, Path],
    val: tuple[Path, Path] | None,
    recipe: str,
    out: Path,
    batch_size: int | None = None,
    crowd_as_instances: bool = False,
    asked: Asked | None = None,
    split: float | None = None,
    group_by: str | None = None,
    seed: int = 0,
    force: bool = True,
) -> list[str]:
    """Check the annotations, write the config and say what was found.

    Args:
        train: annotations of any format that :mod:`mmext.data.formats` knows, and image folder, to train on. What is no COCO
            file is converted to one, written beside the config.
        val: the same for validation; None with ``split``.
        recipe: name of a shipped recipe.
        out: config to write.
        batch_size: images a step over all GPUs; None takes the recipe's.
        crowd_as_instances: use copies of the COCO files, written beside the config, in which every ``iscrowd=1`` with a mask
            is 0. The files themselves are left as they are.
        asked: what the person says of annotations that do not tell themselves.
        split: share of the images of ``train`` to validate on.
        group_by: regular expression that finds in a file name the sample that the image is of; a sample is in one part.
        seed: of the split.
        force: write over the config and over annotation files that were written here before.

    Returns:
        Lines for the person: what is in the data, and the next commands.

    Raises:
        InputError: all that is wrong with the files, at once; a file would be written over.
    """
    base = mmext.recipe(recipe)
    if out.suffix != '.py':
        raise InputError(f'--out: {out} must end in .py: MMDetection reads it as a Python config.')
    if out.exists() and not force:
        raise InputError(f'--out: {out} is there already. Give another name, or --force to write over it.')
    if (val is None) == (split is None):
        raise InputError('--val: a validation part is needed, and one only: give --val ANN IMAGES or --split SHARE.')
    given = {'train': train} if val is None else {'train': train, 'val': val}
    parts = read_parts(given, out, asked or Asked(), crowd_as_instances, split is not None)
    if split is not None:
        parts = split_part(parts[0], split, group_by, seed, out)
    check_targets(parts, force)
    from mmengine.config import Config

    cfg = Config.fromfile(base)
    images = len(parts[0].coco.images)
    if batch_size and batch_size > images:
        raise InputError(f'--batch-size: {batch_size} is more than the {images} training images.')
    batch_size = batch_size or min(cfg.train_dataloader.batch_size, images)
    text, lines = _config_text(cfg, parts, recipe, out, batch_size)
    for part in parts:
        if part.document is not None:
            write_atomically(encoded(part.document), part.coco.path)
    write_atomically(text.encode(), out)
    return lines


def _config_text(cfg, parts: Sequence[Part], recipe: str, out: Path, batch_size: int) -> tuple[str, list[str]]:
    files = [part.coco for part in parts]
    train, val = files
    most = max(count for file in files for count in objects_per_image(file).values())
    model = dict(with_num_classes(cfg.model, len(train.classes)) or {})
    caps = with_detection_caps(cfg.model.get('test_cfg') or {}, most)
    if caps:
        model['test_cfg'] = caps
    base_batch, base_rate = cfg.auto_scale_lr.base_batch_size, cfg.optim_wrapper.optimizer.lr
    rate = float(f'{base_rate * batch_size / base_batch:.6g}')
    val_batch = min(cfg.val_dataloader.batch_size, len(val.images))
    val_file = portable(val.path, out)
    sources = ' and '.join(dict.fromkeys(part.source.name for part in parts))
    text = f"""# Written by `mmext init` from {sources}; yours to change.
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
    lines += [f'  {name} has no object to validate on, so no AP.' for name in train.classes if not val_counts[name]]
    lines += [line for part in parts for line in part.lines]
    for file in files:
        dropped = dropped_in_training(file)
        if dropped:
            where = some(f'annotation {a["id"]}' for a in dropped)
            lines.append(
                f'  {file.path}: MMDetection drops {len(dropped)} (ignored, area 0, under 1 px or outside): {where}'
            )
    lines += [f'Wrote {out}. Next:', f'  mmext check {out}', f'  mmext groups {out} --schedule', f'  mim train mmdet {out}']
    return text, lines


def _loader(part: Part, out: Path, batch_size: int) -> str:
    ann_file, folder = part.coco.path, part.folder
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
