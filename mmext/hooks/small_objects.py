"""Say at the start which objects an RPN with a least size is not taught."""

from collections import Counter
from collections.abc import Iterable, Mapping

from mmdet.datasets import CocoDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from rich.markup import escape
from rich.table import Table

from mmext.analysis.input_size import input_size, not_understood
from mmext.console import tell
from mmext.datasets import coco_datasets
from mmext.errors import some
from mmext.heads import MinSizeRPNHead
from mmext.model import bare_model
from mmext.registry import HOOKS

# more of them than this is no small loss
_WARN_ABOVE = 0.01


def count_small(dataset: CocoDataset, min_size: float) -> tuple[Counter, Counter]:
    """Instances of each class label, all of them and those with a side under ``min_size`` pixels after the resize.

    Of a pipeline that draws its scale the largest counts. Crowd regions are left out.
    """
    total, small = Counter(), Counter()
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for number in range(len(dataset)):
        info = dataset.get_data_info(number)
        size = info['width'], info['height']
        if size not in sizes:
            sizes[size] = input_size(dataset.pipeline.transforms, *size)
        across, down = sizes[size][0] / size[0], sizes[size][1] / size[1]
        for instance in info['instances']:
            if instance['ignore_flag']:
                continue
            x1, y1, x2, y2 = instance['bbox']
            total[instance['bbox_label']] += 1
            small[instance['bbox_label']] += min((x2 - x1) * across, (y2 - y1) * down) < min_size
    return total, small


def to_table(total: Mapping[str, int], small: Mapping[str, int], min_size: float) -> Table:
    """A row a class: instances, those that are too small, and their share."""
    table = Table(title=f'Instances under {min_size:g} px after the resize', title_justify='left')
    table.add_column('class')
    for heading in ('instances', 'too small', 'share'):
        table.add_column(heading, justify='right')
    for name, count in total.items():
        table.add_row(escape(name), f'{count:,}', f'{small[name]:,}', f'{small[name] / count:.1%}' if count else '-')
    return table


def _sums(parts: Iterable[tuple[CocoDataset, Counter]]) -> Counter:
    """Counts by class name over several data sets."""
    names = Counter()
    for dataset, counts in parts:
        names.update({name: counts[label] for label, name in enumerate(dataset.metainfo['classes'])})
    return names


@HOOKS.register_module()
class SmallObjectsHook(Hook):
    """Instances that ``mmext.MinSizeRPNHead`` leaves out, by class, at the start; a warning when they are above 1 %.

    ``small_objects=dict(type='mmext.SmallObjectsHook')`` in default_hooks; silent for a model without such a head.
    """

    def before_train(self, runner) -> None:
        heads = [module for module in bare_model(runner).modules() if isinstance(module, MinSizeRPNHead) and module.min_size]
        if not heads or not is_main_process():
            return
        if heads[0].filter_by == 'proposal':
            runner.logger.info(
                "MinSizeRPNHead: what filter_by='proposal' leaves out depends on the predictions; not counted."
            )
            return
        min_size = heads[0].min_size
        datasets = coco_datasets(runner.train_dataloader.dataset)
        found = [(dataset, *count_small(dataset, min_size)) for dataset in datasets]
        total, small = (_sums((row[0], row[part]) for row in found) for part in (1, 2))
        unknown = [name for dataset in datasets for name in not_understood(dataset.pipeline.transforms)]
        outer = getattr(runner.train_dataloader.dataset, 'pipeline', None)
        if outer is not None and runner.train_dataloader.dataset not in datasets:
            unknown.append(f'the pipeline of {type(runner.train_dataloader.dataset).__name__}')
        if unknown:
            runner.logger.warning(
                f'MinSizeRPNHead: the count of small instances leaves {some(dict.fromkeys(unknown))} out of account.'
            )
        if not total.total():
            runner.logger.warning(
                'MinSizeRPNHead: no COCO data set in the training data, so small instances are not counted.'
            )
            return
        tell(runner.logger, to_table(total, small, min_size), [])
        share = small.total() / total.total()
        if share > _WARN_ABOVE:
            runner.logger.warning(
                f'MinSizeRPNHead: {small.total():,} of {total.total():,} instances ({share:.1%}) have a side under '
                f'{min_size:g} pixels after the resize: no proposal is learnt for them, so most will never be found. '
                'Lower the limit: model.rpn_head.min_size=0, or enlarge the images in Resize of the pipelines.'
            )
