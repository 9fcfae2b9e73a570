from mmext.data.class_names import class_mistakes

COUNTS = {'Fiber': 4, 'Fragment': 3, 'Film': 2, 'Unused': 0}


def test_agreement_is_silent():
    assert class_mistakes(('Fiber', 'Fragment', 'Film'), COUNTS, 'a.json') == []


def test_misspelt_class_is_named_with_both_sides():
    first, second = class_mistakes(('Fibre', 'Fragment', 'Film'), COUNTS, 'a.json')
    assert (first.code, second.code) == ('class-not-in-file', 'class-not-in-config')
    assert "class 'Fibre' of the config is not in a.json. Did you mean 'Fiber'?" in first.text
    assert 'The config has: Fibre, Fragment, Film. The file has: Fiber, Fragment, Film, Unused.' in first.text
    assert "category 'Fiber' of a.json has 4 annotations and is not in the config, so they would be dropped" in second.text
    assert second.count == 4


def test_a_class_left_out_is_a_warning_unless_one_of_the_config_looks_like_it():
    (only,) = class_mistakes(('Fiber', 'Film'), COUNTS, 'a.json')
    assert (only.code, only.severity) == ('class-not-in-config', 'warning')
    assert [found.severity for found in class_mistakes(('Fibre', 'Fragment', 'Film'), COUNTS, 'a.json')] == ['severe'] * 2
    # a class that the file has is misspelt nowhere, however near the other's name is
    (only,) = class_mistakes(('cell a',), {'cell a': 3, 'cell b': 2}, 'a.json')
    assert only.severity == 'warning'
    assert 'Did you mean' not in only.text


def test_a_missing_comma_is_named():
    (only,) = class_mistakes('Fiber', COUNTS, 'a.json')
    assert "Add a comma: classes=('Fiber',)" in only.remedy


def test_other_order_is_a_mistake():
    (only,) = class_mistakes(('Film', 'Fragment', 'Fiber'), COUNTS, 'a.json')
    assert only.code == 'class-order'
    assert 'lists the classes as Fiber, Fragment, Film, the config as Film, Fragment, Fiber' in only.text
    assert "metainfo=dict(classes=('Fiber', 'Fragment', 'Film'))" in only.remedy
