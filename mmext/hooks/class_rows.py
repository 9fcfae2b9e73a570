"""Load the rows of classes by name, where the data's classes are not quite those of the checkpoint."""

from collections.abc import Mapping, Sequence

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from mmext.class_rows import LoadedRows, check_arguments, find_rows
from mmext.model import bare_model
from mmext.registry import HOOKS


@HOOKS.register_module()
class ClassRowsHook(Hook):
    """Classes that ``load_from`` knows keep their rows: ``class_rows=dict(type='mmext.ClassRowsHook')``.

    MMDetection drops a classifier, box or mask predictor whose number of classes is another one, and loads one of the same
    number whatever its classes are. With this hook the rows of a class go where the class of that name is, the background's
    row too, and the others keep their initialisation. Names are the same when they are equal, or else when they differ in
    case, spaces, ``_`` and ``-`` alone. Where no class is shared, loading is MMDetection's; so is a resume.

    Known are MMDetection's BBoxHead and its children, FCN, HTC and coarse mask heads, PointRend's point head, Mask Scoring's
    IoU head and SOLO's, alone and in the lists of a cascade, as far as they count classes: a class-agnostic layer is loaded
    whole. Other heads are named in the log and loaded as MMDetection does it.

    The log and ``param_groups.json`` say how many rows of which tensor were loaded (:class:`mmext.hooks.GroupLRHook`).

    Args:
        map: class of the data to the class of the checkpoint whose rows it takes, for names that differ; None: it takes
            none, although there is one of its name. Not looked at when the checkpoint's classes are the data's.
        checkpoint_classes: of the checkpoint, in the order of its labels, where it does not say them.

    Raises:
        InputError: an argument of another kind, a name that one of the two sides does not have.
    """

    priority = 'ABOVE_NORMAL'  # GroupLRHook and EMAHook (NORMAL) read what will be loaded

    def __init__(self, map: Mapping[str, str | None] | None = None, checkpoint_classes: Sequence[str] = ()):
        check_arguments(map, checkpoint_classes)
        self.map, self.checkpoint_classes = dict(map or {}), tuple(checkpoint_classes)
        self.rows: dict[str, LoadedRows] = {}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        classes = () if not isinstance(runner, Runner) or runner._resume else _classes(runner)
        if not classes:
            return
        found = find_rows(bare_model(runner), checkpoint, classes, self.map, self.checkpoint_classes)
        found.put_into(checkpoint)
        self.rows = found.rows
        for line in found.lines:
            runner.logger.info(line)


def _classes(runner: Runner) -> tuple[str, ...]:
    """Class names of the data that the runner is about to use."""
    loops = (runner._train_loop, runner._val_loop, runner._test_loop)  # those it does not need are not built
    loop = next((loop for loop in loops if isinstance(loop, BaseLoop)), None)
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    return tuple((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
