import torch

from mmext.model import parsed_losses


def test_lists_of_losses_are_summed_as_in_training():
    losses = {'loss_cls': [torch.tensor([1.0, 3.0]), torch.tensor(2.0)], 'loss_box': torch.tensor([2.0, 4.0]), 'acc': 1}
    assert {name: float(value) for name, value in parsed_losses(losses).items()} == {'loss_cls': 4.0, 'loss_box': 3.0}
