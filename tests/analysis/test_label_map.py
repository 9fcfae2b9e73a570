import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.analysis.label_map import instances_to_label_map
from mmext.errors import InputError


def columns(*spans, width=8):
    """Masks of two rows that fill the columns from a to b."""
    masks = np.zeros((len(spans), 2, width), bool)
    for mask, (first, last) in zip(masks, spans, strict=True):
        mask[:, first:last] = True
    return masks


def test_the_higher_score_wins_in_any_order():
    masks = columns((0, 4), (2, 6), (3, 8))
    labels, scores = np.array([0, 4, 1]), np.array([0.5, 0.9, 0.7])
    expected = [1, 1, 5, 5, 5, 5, 2, 2]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]):
        found = instances_to_label_map(masks[order], labels[order], scores[order])
        assert found.tolist() == [expected] * 2
    assert found.dtype == np.int32


def test_of_equal_scores_the_first_wins():
    masks = columns((0, 4), (2, 6), (3, 8))
    assert instances_to_label_map(masks, [2, 1, 0], [0.5] * 3)[0].tolist() == [3, 3, 3, 3, 2, 2, 1, 1]
    assert instances_to_label_map(masks[::-1], [0, 1, 2], [0.5] * 3)[0].tolist() == [3, 3, 2, 1, 1, 1, 1, 1]


@given(st.data())
@settings(deadline=None)
def test_every_pixel_is_its_best_instances(data):
    number, height, width = (data.draw(st.integers(0, 5)), *(data.draw(st.integers(1, 4)) for _ in 'hw'))
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    masks, labels = rng.random((number, height, width)) < 0.5, rng.integers(0, 9, number)
    scores = rng.integers(0, 3, number) / 2
    found = instances_to_label_map(masks, labels, scores)
    for y in range(height):
        for x in range(width):
            there = [i for i in range(number) if masks[i, y, x]]
            best = max(there, key=lambda i: (scores[i], -i), default=None)
            assert found[y, x] == (0 if best is None else labels[best] + 1)


def test_no_instance_is_background():
    found = instances_to_label_map(np.zeros((0, 3, 5), bool), np.zeros(0, int), np.zeros(0))
    assert found.tolist() == [[0] * 5] * 3
    assert instances_to_label_map(np.zeros((0, 3, 5), bool), [], []).shape == (3, 5)


def test_tensors_of_a_prediction():
    import torch

    masks = torch.from_numpy(columns((0, 4), (2, 6)))
    found = instances_to_label_map(masks, torch.tensor([0, 1]), torch.tensor([0.25, 0.5], dtype=torch.float16))
    assert found[0].tolist() == [1, 1, 2, 2, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'masks': columns((0, 4), (2, 6)) * 0.6}, r'masks are float64 \(2, 2, 8\); .* their threshold first: masks >= 0.5'),
        ({'masks': columns((0, 4), (2, 6))[0]}, r'masks are bool \(2, 8\); they must be bool \(N, H, W\)'),
        ({'masks': np.bool_(True)}, r'masks are bool \(\); they must be bool \(N, H, W\)'),
        ({'labels': [1]}, r'labels have shape \(1,\); for masks \(2, 2, 8\) it must be \(2,\)'),
        ({'scores': [[0.1, 0.2]]}, r'scores have shape \(1, 2\); '),
        ({'labels': [0.0, 1.0]}, 'labels are float64 from 0.0; they must be whole numbers from 0'),
        ({'labels': [0, -1]}, 'labels are int64 from -1; '),
        ({'scores': [0.5, float('nan')]}, '1 of 2 scores are NaN'),
    ],
    ids=lambda value: ', '.join(value) if isinstance(value, dict) else '',
)
def test_wrong_arguments(changes, words):
    with pytest.raises(InputError, match=f'label map: {words}'):
        instances_to_label_map(**{'masks': columns((0, 4), (2, 6)), 'labels': [0, 1], 'scores': [0.5, 0.6]} | changes)


def test_it_loads_no_torch():
    code = 'import sys, mmext.analysis.label_map; print("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == 'False'
