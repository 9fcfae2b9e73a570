"""Nothing, in the place of a hook."""

from mmengine.hooks import Hook

from mmext.registry import HOOKS


@HOOKS.register_module()
class NoHook(Hook):
    """Switches a hook of ``default_hooks`` off: ``default_hooks.early_stopping.type=mmext.NoHook``.

    MMEngine refuses ``default_hooks.early_stopping=None`` for all but its own six names.

    Args:
        kwargs: of the hook that was there; not looked at.
    """

    def __init__(self, **kwargs):
        pass
