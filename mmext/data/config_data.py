"""Which data set a part of a config has. No torch."""

from collections.abc import Mapping


def dataset_of(cfg: Mapping, part: str) -> Mapping:
    """The settings of a loader's data set, of a wrapper the one inside, of several the first; empty when there is none.

    Args:
        cfg: of a run.
        part: ``train``, ``val`` or ``test``.
    """
    dataset = (cfg.get(f'{part}_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset
