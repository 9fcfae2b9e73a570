from pickle import UnpicklingError

import pytest
import torch

HOOKS = {'resume': {'type': 'mmext.ResumeHook'}, 'group_lr': {'type': 'mmext.GroupLRHook'}}


def test_mmengines_own_checkpoint_loads_and_resumes(train_tiny, tmp_path):
    runner, _ = train_tiny(default_hooks=HOOKS)
    weights = runner.model.state_dict()
    path = tmp_path / 'run' / 'epoch_2.pth'
    assert torch.load(path, weights_only=True)['message_hub']['log_scalars']['train/loss'].mean() > 0
    again, _ = train_tiny(default_hooks=HOOKS, load_from=str(path), resume=True, epochs=2)
    assert again.epoch == 2
    assert all(torch.equal(weight, again.model.state_dict()[name]) for name, weight in weights.items())


def test_a_foreign_pickle_is_refused(train_tiny, tmp_path):
    class Foreign:
        def __reduce__(self):
            return (print, ('ran',))

    torch.save({'state_dict': {}, 'meta': Foreign()}, tmp_path / 'bad.pth')
    with pytest.raises(UnpicklingError, match='GLOBAL print was not an allowed global'):
        train_tiny(default_hooks=HOOKS, load_from=str(tmp_path / 'bad.pth'))
