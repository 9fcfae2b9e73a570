from hypothesis import given
from hypothesis import strategies as st

from mmext.data.class_names import class_mistakes, map_mistakes, matched_classes, place_of, trained_classes

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


def test_the_classes_of_a_checkpoint_in_all_three_forms():
    names = ['a', 'b']
    for meta in ({'dataset_meta': {'classes': names}}, {'dataset_meta': {'CLASSES': names}}, {'CLASSES': names}):
        assert trained_classes(meta) == ('a', 'b')
    assert trained_classes({}) == trained_classes({'dataset_meta': None}) == ()


def test_a_name_is_the_same_but_for_case_and_spaces_where_that_is_one_class():
    names = ['cell phone', 'Film', 'film']
    assert [place_of(name, names) for name in ('cell phone', 'Cell_phone', 'CELL-PHONE ', 'cellphone')] == [0, 0, 0, None]
    assert [place_of(name, names) for name in ('Film', 'film', 'FILM')] == [1, 2, None]


@given(st.lists(st.text(min_size=1), unique=True, min_size=1), st.data())
def test_a_list_finds_itself_in_any_order(names, data):
    other = data.draw(st.permutations(names))
    assert [other[place] for place in matched_classes(names, other, {})] == names
    assert matched_classes(names, other, dict.fromkeys(names)) == [None] * len(names)


def test_a_map_goes_before_names_and_its_mistakes_name_the_side():
    classes, theirs = ('Fiber', 'mouse'), ('hair', 'mouse')
    assert matched_classes(classes, theirs, {}) == [None, 1]
    assert matched_classes(classes, theirs, {'fiber': 'Hair', 'mouse': None}) == [0, None]
    assert map_mistakes({'fiber': 'Hair', 'mouse': None}, classes, theirs) == []
    (only,) = map_mistakes({'Fiber': 'hairs'}, classes, theirs)
    assert only == "map Fiber=hairs: 'hairs' is no class of the checkpoint. Did you mean 'hair'? It has: hair, mouse."
    assert map_mistakes({'Fiber': 'hairs'}, classes) == []  # theirs are not known
    (only,) = map_mistakes({'Fibre': None}, classes)
    assert only == "map Fibre=: 'Fibre' is no class of the data. Did you mean 'Fiber'? It has: Fiber, mouse."
