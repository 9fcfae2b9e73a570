"""Class names of a config against those of an annotation file. No torch."""

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
