"""Hold the config's classes against the annotation file and the model's heads before anything is trained."""

from mmdet.engine.hooks import NumClassCheckHook

from mmext.data.class_names import class_mistakes
from mmext.data.coco_file import count_by_class, read_coco
from mmext.datasets import coco_datasets
from mmext.errors import raise_all
from mmext.registry import HOOKS


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
            found = class_mistakes(dataset.metainfo['classes'], _counts(dataset), dataset.ann_file)
            mistakes += [f'{mistake.text} {mistake.remedy}' for mistake in found]
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
