"""Class names of a config against those of an annotation file, and against those of a checkpoint. No torch."""

import re
from collections.abc import Mapping, Sequence

from mmext.analysis.findings import Finding
from mmext.errors import did_you_mean


def class_mistakes(classes: Sequence[str], counts: Mapping[str, int], ann_file: str) -> list[Finding]:
    """How the classes of the config and those of an annotation file disagree.

    Args:
        classes: class names of the data set's ``metainfo``, in order.
        counts: category name to number of annotations, in the file's order; names without annotations included.
        ann_file: the file, for the message.

    Returns:
        One finding a mistake; empty when they agree. A category that no annotation uses may be missing in the config; one
        that is used may be left out on purpose, and is severe only when a class of the config looks like its misspelling.
    """
    if isinstance(classes, str):
        text = f'metainfo.classes is the text {classes!r}, not a list of names.'
        return [Finding('classes-are-text', 'severe', text, remedy=f'Add a comma: classes=({classes!r},).')]
    both = f'The config has: {", ".join(classes)}. The file has: {", ".join(counts)}.'
    mistakes = []
    for name in classes:
        if name not in counts:
            text = f'class {name!r} of the config is not in {ann_file}. {did_you_mean(name, counts)}{both}'
            remedy = f'Set metainfo=dict(classes={tuple(counts)}) of the data set, or those of them that you want.'
            mistakes.append(Finding('class-not-in-file', 'severe', text, remedy=remedy))
    unknown = [name for name in classes if name not in counts]
    for name, count in counts.items():
        if name not in classes and count:
            misspelt = did_you_mean(name, unknown)
            text = (
                f'category {name!r} of {ann_file} has {count} annotations and is not in the config, so they would be '
                f'dropped. {misspelt}{both}'
            )
            remedy = (
                'Add it to metainfo.classes and num_classes, or switch this check off: '
                'default_hooks.class_check.type=mmext.NoHook'
            )
            severity = 'severe' if misspelt else 'warning'
            mistakes.append(Finding('class-not-in-config', severity, text, count, remedy=remedy))
    in_file_order = tuple(name for name in counts if name in classes)
    if not mistakes and in_file_order != tuple(classes):
        text = (
            f'{ann_file} lists the classes as {", ".join(in_file_order)}, the config as {", ".join(classes)}. MMDetection '
            'numbers the labels in the order of the file, so names and labels would not match.'
        )
        remedy = f'Give both the same order: metainfo=dict(classes={in_file_order}).'
        mistakes.append(Finding('class-order', 'severe', text, remedy=remedy))
    return mistakes


def trained_classes(meta: Mapping) -> tuple[str, ...]:
    """Class names that the ``meta`` of a checkpoint says, as MMEngine or, ``CLASSES``, MMDetection 2 wrote them."""
    theirs = meta.get('dataset_meta') or {}
    return tuple(theirs.get('classes') or theirs.get('CLASSES') or meta.get('CLASSES') or ())


def place_of(name: str, names: Sequence[str]) -> int | None:
    """Where ``names`` has a name: the same one, or else the only one that differs in case, spaces, ``_`` and ``-`` alone.

    Annotation tools and data sets write ``Traffic light``, ``traffic_light`` and ``traffic light``; nothing else is taken
    for the same, since a class of another meaning would be loaded in silence.
    """
    if name in names:
        return list(names).index(name)
    alike = [place for place, other in enumerate(names) if _folded(other) == _folded(name)]
    return alike[0] if len(alike) == 1 else None


def _folded(name: str) -> str:
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()


def map_mistakes(
    class_map: Mapping[str, str | None], classes: Sequence[str], theirs: Sequence[str] | None = None
) -> list[str]:
    """What is wrong with a map of classes, in words.

    Args:
        class_map: class of the data to class of the checkpoint; None: to none.
        classes: of the data.
        theirs: of the checkpoint; None when they are not known.
    """
    mistakes = []
    for new, old in class_map.items():
        sides = [('data', new, classes), ('checkpoint', old, theirs)]
        for side, name, names in sides:
            if name is not None and names is not None and place_of(name, names) is None:
                mistakes.append(
                    f'map {new}={old or ""}: {name!r} is no class of the {side}. {did_you_mean(name, names)}It has: '
                    f'{", ".join(names)}.'
                )
    return mistakes


def matched_classes(classes: Sequence[str], theirs: Sequence[str], class_map: Mapping[str, str | None]) -> list[int | None]:
    """For each class its place among those of a checkpoint: by the map, else by its name; None where there is none.

    Args:
        classes: of the data.
        theirs: of the checkpoint.
        class_map: without mistakes, see :func:`map_mistakes`.
    """
    found = [place_of(name, theirs) for name in classes]
    for new, old in class_map.items():
        found[place_of(new, classes)] = None if old is None else place_of(old, theirs)
    return found
