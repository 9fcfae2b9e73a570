"""Read the checkpoints that MMEngine wrote, on a torch that refuses them."""

from mmengine.hooks import Hook

from mmext.registry import HOOKS
from mmext.safe_load import allow_mmengine_checkpoints


@HOOKS.register_module()
class ResumeHook(Hook):
    """Let ``load_from``, ``--resume`` and ``mim test`` read MMEngine's checkpoints.

    ``default_hooks = dict(resume=dict(type='mmext.ResumeHook'))``.

    torch ≥ 2.6 loads with ``weights_only=True`` and refuses every checkpoint that MMEngine's runner wrote. This hook adds
    the few names that such a file needs, each served by a stand-in that cannot be used for anything else.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        allow_mmengine_checkpoints()
