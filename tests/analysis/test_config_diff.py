from mmext.analysis.config_diff import comparable, config_differences


def differences(*configs):
    return config_differences([comparable(config) for config in configs])


def pipeline(*steps):
    return {'train_dataloader': {'dataset': {'pipeline': [{'type': step} for step in steps]}}}


def test_a_transform_more_is_one_line():
    key = 'train_dataloader.dataset.pipeline'
    found = differences(pipeline('Load', 'Resize', 'Pack'), pipeline('Load', 'Flip', 'Resize', 'Pack'))
    assert found == {f'{key}.Flip.type': ['-', 'Flip']}
    swapped = differences(pipeline('Load', 'Resize', 'Flip'), pipeline('Load', 'Flip', 'Resize'))
    assert swapped == {f'{key} (order)': [['Load', 'Resize', 'Flip'], ['Load', 'Flip', 'Resize']]}
    assert differences(pipeline('Flip', 'Flip'), pipeline('Flip')) == {f'{key}.Flip#2.type': ['Flip', '-']}


def test_empty_settings_paths_and_watching_hooks_are_no_differences():
    one = {'optim_wrapper': {'paramwise_cfg': {'custom_keys': {}}}, 'work_dir': 'a', 'model': {'_scope_': 'mmdet'}}
    one |= {
        'default_hooks': {'logger': {'interval': 5}},
        'val_evaluator': {'outfile_prefix': '/a/b', 'ann_file': '/x/d/val.json'},
    }
    two = {'work_dir': 'b', 'model': {}, 'default_hooks': {}, 'val_evaluator': {'ann_file': '/home/y/d/val.json'}}
    assert differences(one, two) == {}
    two['optim_wrapper'] = {'paramwise_cfg': {'custom_keys': {'neck': {'lr_mult': 2}}}}
    assert differences(one, two) == {'optim_wrapper.paramwise_cfg.custom_keys.neck.lr_mult': ['-', 2]}


def test_values_are_as_json_gives_them_back():
    import json

    found = comparable({'model': {'a': {1, 2}, 'b': b'x', 'c': [[{1: 2}]], 'd': 10**5000, 'e': [1, None, True]}})
    assert found['model.d'].startswith('0x')
    assert json.loads(json.dumps(found)) == found


def test_a_list_beside_a_single_value():
    one = {'param_scheduler': [{'type': 'LinearLR', 'end': 3}], 'load_from': None}
    assert differences(one, {'param_scheduler': None, 'load_from': None}) == {
        'param_scheduler.LinearLR.type': ['LinearLR', '-'],
        'param_scheduler.LinearLR.end': [3, '-'],
        'param_scheduler': ['-', None],
    }
