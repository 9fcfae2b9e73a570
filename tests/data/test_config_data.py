import pytest

from mmext.data.config_data import dataset_of

INNER = {'ann_file': 'a.json'}


@pytest.mark.parametrize(
    ('dataset', 'found'),
    [
        (INNER, INNER),
        ({'type': 'RepeatDataset', 'dataset': {'type': 'MultiImageMixDataset', 'dataset': INNER}}, INNER),
        ({'type': 'ConcatDataset', 'datasets': [INNER, {'ann_file': 'b.json'}]}, INNER),
        (None, {}),
    ],
)
def test_the_data_set_inside_of_all_wrappers(dataset, found):
    assert dataset_of({'train_dataloader': {'dataset': dataset}}, 'train') == found
    assert dataset_of({'train_dataloader': None}, 'train') == dataset_of({}, 'val') == {}
