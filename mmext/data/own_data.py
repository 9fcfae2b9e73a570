"""A config for a person's own data: everything that can be read off the annotations is written, with its reason."""

import os
import pprint
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mmext
from mmext.atomic_file import write_atomically
from mmext.data.caps import COUNTED_BY_MAP, DETECTIONS, Cap, as_changes, model_caps
from mmext.data.class_names import map_mistakes
from mmext.data.coco_file import count_by_class, dropped_in_training, objects_per_image
from mmext.data.formats.content import Asked
from mmext.data.image_loading import Loading, input_scale_of, pipelines_text, plan_loading
from mmext.data.split import Part, check_targets, encoded, read_parts, split_part
from mmext.data.tile_files import is_large, tiled_part, write_tiles
from mmext.errors import InputError, did_you_mean, raise_all, some

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
    class_map: Mapping[str, str | None] | None = None,
    channels: Sequence[int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
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
        seed: of the split, and of the images whose grey values are looked at.
        force: write over the config and over what was written beside it before.
        class_map: class of the data to the class of the recipe's checkpoint whose rows it begins with; None: with none.
        channels: of the images that are shown: one as grey, or three as red, green and blue; None where all have one or
            three.
        progress: called with (what, done, all).

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
    map_text, map_lines = _class_map(class_map or {}, parts[0].coco.classes, cfg.get('load_from'), out)
    loading = plan_loading(parts, input_scale_of(cfg.val_dataloader.dataset.pipeline), channels, seed, progress)
    used, tiles = parts, []
    if loading.crops and is_large(parts[1].coco, loading.crops.side):
        folder = out.with_name(f'{out.stem}_val_tiles')
        tiled, tiles = tiled_part(parts[1], loading.crops.side, folder)
        check_targets([tiled], force)
        used = [parts[0], tiled]
    text, lines = _config_text(cfg, used, recipe, out, batch_size, loading)
    if tiles:
        write_tiles(used[1].folder, parts[1].folder, tiles, progress)
    written = {part.coco.path: part.document for part in (*parts, *used) if part.document is not None}
    for path, document in written.items():
        write_atomically(encoded(document), path)
    write_atomically((text + map_text).encode(), out)
    return map_lines + lines


def _config_text(
    cfg, parts: Sequence[Part], recipe: str, out: Path, batch_size: int, loading: Loading
) -> tuple[str, list[str]]:
    files = [part.coco for part in parts]
    train, val = files
    train_most, val_most = (max(objects_per_image(file).values(), default=0) for file in files)
    if loading.crops:  # of a large image the network sees a part at a time
        train_most = loading.crops.most
    most = max(train_most, val_most)
    caps = model_caps(cfg.model, train_most, most)
    model = {**(with_num_classes(cfg.model, len(train.classes)) or {}), **as_changes(caps)}
    rate = _rate_text(cfg.optim_wrapper.optimizer, cfg.auto_scale_lr.base_batch_size, batch_size)
    val_batch = min(cfg.val_dataloader.batch_size, len(val.images))
    val_file = portable(val.path, out)
    loads = ''
    if loading.settings is not None:
        pipelines = (cfg[f'{name}_dataloader'].dataset.pipeline for name in ('train', 'val'))
        loads = f'{pipelines_text(loading, *map(_plain, pipelines))}\n\n'
    sources = ' and '.join(dict.fromkeys(part.source.name for part in parts))
    text = f"""# Written by `mmext init` from {sources}; yours to change.
_base_ = __import__('mmext').recipe({recipe!r})

num_classes = {len(train.classes)}
class_names = {train.classes!r}
metainfo = dict(classes=class_names, palette='random')

{loads}# To train on: {len(train.images)} images, {len(train.annotations)} objects.
train_dataloader = {_train_loader(cfg, parts[0], out, batch_size, loading)}
# To validate on: {len(val.images)} images, {len(val.annotations)} objects.
val_dataloader = {_loader(_dataset(parts[1], out, 'test_pipeline' if loads else None), val_batch)}
test_dataloader = val_dataloader
{_evaluator(caps, val_file)}
test_evaluator = val_evaluator

{rate}
auto_scale_lr = dict(base_batch_size={batch_size})

{_caps_in_words(caps, most)}
model = {pprint.pformat(_plain(model), width=110, sort_dicts=False)}
"""
    counts, val_counts = count_by_class(train), count_by_class(val)
    lines = [f'{len(train.images)} training and {len(val.images)} validation images, at most {most} objects in one.']
    lines += [f'  {name}: {counts[name]} and {val_counts[name]} objects' for name in train.classes]
    for what, found in (('to train on', counts), ('to validate on, so no AP', val_counts)):
        others = [name for name in train.classes if found[name]]
        lines += [
            f'  {name} has no object {what}. {did_you_mean(name, others)}'.rstrip()
            for name in train.classes
            if not found[name]
        ]
    lines += [line for part in parts for line in part.lines]
    lines += loading.lines
    for file in files:
        dropped = dropped_in_training(file)
        if dropped:
            where = some(f'annotation {a["id"]}' for a in dropped)
            lines.append(
                f'  {file.path}: MMDetection drops {len(dropped)} (ignored, area 0, under 1 px or outside): {where}'
            )
    lines += [f'Wrote {out}. Next:', f'  mmext check {out} --images --show work_dirs/truth']
    lines += [f'  mmext groups {out} --schedule', f'  mim train mmdet {out}']
    return text, lines


def _rate_text(optimizer: Mapping, base_batch: int, batch_size: int) -> str:
    """The base rate for another batch than the recipe's, with the rule that gives it."""
    base_rate, kind = optimizer['lr'], optimizer['type']
    if 'Adam' in kind:
        return f"""# {kind}'s step does not follow the size of the gradient: the rate is the recipe's for any batch.
# `mim train ... --auto-scale-lr` would multiply it by the number of GPUs: leave that away.
optim_wrapper = dict(optimizer=dict(lr={base_rate!r}))"""
    rate = float(f'{base_rate * batch_size / base_batch:.6g}')
    return f"""# Linear rule: the recipe's {base_rate:g} is for a batch of {base_batch}.
# {base_rate:g} * {batch_size} / {base_batch} = {rate:g}
# That is for one GPU; on several, `mim train ... --auto-scale-lr` multiplies the rate by their number.
optim_wrapper = dict(optimizer=dict(lr={rate!r}))"""


def _train_loader(cfg, part: Part, out: Path, batch_size: int, loading: Loading) -> str:
    dataset = _dataset(part, out, None if loading.settings is None else 'train_pipeline')
    times = loading.crops.times if loading.crops else 1
    if times > 1:
        settings = _plain(cfg.train_dataloader.dataset)
        kept = {key: repr(settings[key]) for key in ('type', 'filter_cfg') if key in settings}
        dataset = {'_delete_': 'True', 'type': "'RepeatDataset'", 'times': str(times), 'dataset': kept | dataset}
    return _loader(dataset, batch_size)


def _loader(dataset: Mapping[str, str | Mapping], batch_size: int) -> str:
    """A data loader as text; of ``dataset`` the values are text already."""
    return _dict_text({'batch_size': str(batch_size), 'dataset': dataset})


def _dict_text(settings: Mapping[str, str | Mapping], indent: int = 4) -> str:
    lines = (
        f'{" " * indent}{key}={value if isinstance(value, str) else _dict_text(value, indent + 4)}'
        for key, value in settings.items()
    )
    return 'dict(\n' + ',\n'.join(lines) + ')'


def _dataset(part: Part, out: Path, pipeline: str | None) -> dict[str, str]:
    folder = portable(part.folder, out) + '/'
    found = {
        'data_root': "''",
        'ann_file': repr(portable(part.coco.path, out)),
        'data_prefix': f'dict(img={folder!r})',
        'metainfo': 'metainfo',
    }
    return found if pipeline is None else found | {'pipeline': pipeline}


def _evaluator(caps: Sequence[Cap], file: str) -> str:
    kept = max((cap.needed for cap in caps if cap.what == DETECTIONS), default=0)
    if kept <= COUNTED_BY_MAP:
        return f'val_evaluator = dict(ann_file={file!r})'
    return f"""# COCO's mAP counts {COUNTED_BY_MAP} detections of a class in an image, with this all that are kept.
val_evaluator = dict(ann_file={file!r}, max_detections={kept})"""


def _caps_in_words(caps: Sequence[Cap], most: int) -> str:
    low = [cap for cap in caps if cap.is_low]
    if not low:
        return f"# At most {most} objects in one image: none of the recipe's limits is too low for that."
    lines = [f"# At most {most} objects in one image. The recipe's limits are too low for that:"]
    lines += [f'#   {cap.key}: {cap.needed} {cap.what} instead of {cap.value}' for cap in low]
    return '\n'.join(lines)


def _class_map(
    class_map: Mapping[str, str | None], classes: Sequence[str], load_from: str | None, out: Path
) -> tuple[str, list[str]]:
    """Lines of the config for ``--map``, and what there is to say of it."""
    if not class_map:
        return '', []
    if not load_from:
        raise InputError('--map: the recipe starts from no checkpoint, so there is no class to take rows from.')
    from mmext.model import classes_of_file  # torch

    theirs = classes_of_file(load_from)
    raise_all([f'--{mistake}' for mistake in map_mistakes(class_map, classes, theirs)])
    text = f"""
# Class of these data to the class of the checkpoint whose rows it begins with; None: with none.
default_hooks = dict(class_rows=dict(map={dict(class_map)!r}))
"""
    name = load_from.rsplit('/', 1)[-1]
    later = f'--map: the classes of {name} are not known here; `mmext groups {out}` holds the map against them.'
    return text, [] if theirs else [later]
