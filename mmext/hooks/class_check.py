"""Hold the config's classes against the annotation file and the model's heads before anything is trained."""

from collections.abc import Mapping, Sequence

from mmdet.engine.hooks import NumClassCheckHook

from mmext.data.coco_file import count_by_class, read_coco
from mmext.datasets import coco_datasets
from mmext.errors import did_you_mean, raise_all
from mmext.registry import HOOKS


def class_mistakes(classes: Sequence[str], counts: Mapping[str, int], ann_file: str) -> list[str]:
    """How the classes of the config and those of an annotation file disagree, in words.

    Args:
        classes: class names of the data set's ``metainfo``, in order.
        counts: category name to number of annotations, in the file's order; names without annotations included.
        ann_file: the file, for the message.

    Returns:
        One sentence a mistake; empty when they agree. A category that no annotation uses may be missing in the config.
    """
    if isinstance(classes, str):
        return [f'metainfo.classes is the text {classes!r}, not a list of names. Add a comma: classes=({classes!r},).']
    mistakes = []
    ours, theirs = ', '.join(classes), ', '.join(counts)
    for name in classes:
        if name not in counts:
            mistakes.append(
                f'class {name!r} of the config is not in {ann_file}. {did_you_mean(name, counts)}'
                f'The config has: {ours}. The file has: {theirs}. Set metainfo=dict(classes=(...,)) of the data set.'
            )
    for name, count in counts.items():
        if name not in classes and count:
            mistakes.append(
                f'category {name!r} of {ann_file} has {count} annotations and is not in the config, so they would be '
                f'dropped. {did_you_mean(name, classes)}The config has: {ours}. The file has: {theirs}. '
                'Add it to metainfo.classes and num_classes, or switch this check off: '
                'default_hooks.class_check.type=mmext.NoHook'
            )
    in_file_order = [name for name in counts if name in classes]
    if not mistakes and in_file_order != list(classes):
        mistakes.append(
            f'{ann_file} lists the classes as {", ".join(in_file_order)}, the config as {ours}. MMDetection numbers the '
            'labels in the order of the file, so names and labels would not match. Give both the same order.'
        )
    return mistakes


@HOOKS.register_module()
class ClassCheckHook(NumClassCheckHook):
    """Stop before the first iteration when classes, heads and annotation files disagree.

    ``class_check=dict(type='mmext.ClassCheckHook')``. The heads are checked by MMDetection's ``NumClassCheckHook``; the
    categories of the annotation files, which MMDetection matches in silence, by ``class_mistakes``.

    Raises:
        InputError: names the classes of both sides.
    """

    _trains = False

    def _check(self, runner, mode: str | None, loader) -> None:
        mistakes = []
        for dataset in coco_datasets(loader.dataset):
            mistakes += class_mistakes(dataset.metainfo['classes'], _counts(dataset), dataset.ann_file)
        try:
            if mode:
                self._check_head(runner, mode)
        except AssertionError as error:
            classes = ', '.join(loader.dataset.metainfo['classes'])
            mistakes.append(f'{error}. The {mode} data has: {classes}. Set num_classes of every head to their number.')
        raise_all(list(dict.fromkeys(mistakes)))

    def before_train(self, runner) -> None:
        self._trains = True
        self._check(runner, 'train', runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, 'val', runner.val_dataloader)

    def before_val(self, runner) -> None:
        if not self._trains:  # else it was checked before the first iteration
            self._check(runner, 'val', runner.val_dataloader)

    # NumClassCheckHook knows no test mode; a head with other classes than the checkpoint's fails to load there
    def before_test(self, runner) -> None:
        self._check(runner, None, runner.test_dataloader)

    # NumClassCheckHook checks every epoch; once is enough
    def before_train_epoch(self, runner) -> None:
        pass

    def before_val_epoch(self, runner) -> None:
        pass


def _counts(dataset) -> dict[str, int]:
    # mmext.CocoInstanceDataset has counted while it loaded; any other COCO data set's file is read again
    return dataset.counts if hasattr(dataset, 'counts') else count_by_class(read_coco(dataset.ann_file))
