"""The data sets that a config trains and validates on, as ``mmext check`` reads them."""

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmext.data.coco_file import CocoFile


@dataclass(frozen=True)
class DataPart:
    """One data set of a config: ``name`` train or val; ``key`` its path in the config, as ``--cfg-options`` takes it;
    ``dataset`` its config, without wrappers; ``ann_file`` and the image ``folder`` with data_root joined; ``coco`` what of
    the file can be used, None when nothing can."""

    name: str
    key: str
    dataset: ConfigDict
    ann_file: Path
    folder: Path
    coco: CocoFile | None = None

    @property
    def loading(self) -> ConfigDict | None:
        """The transform of the pipeline that reads the image: the first of a LoadImage... name, else the first of all."""
        pipeline = self.dataset.get('pipeline') or []
        named = [one for one in pipeline if 'LoadImage' in str(one.get('type'))]
        return next(iter([*named, *pipeline]), None)


def data_parts(cfg: Config) -> list[DataPart]:
    """The COCO data sets of the training and the validation loader, those inside wrappers (RepeatDataset, ConcatDataset,
    MultiImageMixDataset, ...) one by one. What stands twice is given once."""
    parts = []
    for name in ('train', 'val'):
        loader = cfg.get(f'{name}_dataloader')
        for key, dataset in _innermost(f'{name}_dataloader.dataset', loader.dataset) if loader else []:
            part = _part(name, key, dataset)
            if all((part.name, part.ann_file) != (other.name, other.ann_file) for other in parts):
                parts.append(part)
    return parts


def _innermost(key: str, dataset: ConfigDict) -> list[tuple[str, ConfigDict]]:
    if 'datasets' in dataset:
        parts = enumerate(dataset.datasets)
        return [inner for number, part in parts for inner in _innermost(f'{key}.datasets.{number}', part)]
    if 'dataset' in dataset:
        return _innermost(f'{key}.dataset', dataset.dataset)
    return [(key, dataset)] if dataset.get('ann_file') else []


def _part(name: str, key: str, dataset: ConfigDict) -> DataPart:
    root = Path(dataset.get('data_root') or '')
    prefix = dataset.get('data_prefix') or {}
    folder = prefix.get('img') or prefix.get('img_path') or ''
    # as MMEngine joins them: an absolute path stays as it is
    return DataPart(name, key, dataset, root / dataset.ann_file, root / folder)
