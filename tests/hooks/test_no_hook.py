def test_a_hook_is_switched_off_by_its_type_alone(train_tiny):
    stop = {'type': 'mmext.NoHook', 'monitor': 'size', 'rule': 'greater', 'patience': 1, 'min_delta': 0.0}
    runner, _ = train_tiny(default_hooks={'early_stopping': stop}, epochs=4, validate=True)
    assert runner.epoch == 4
