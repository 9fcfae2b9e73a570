"""Every recipe of ours passes its check on made data, or its header says which finding it has there, and why."""

import pytest

import mmext
from mmext.check.report import check
from mmext.data.demo import KINDS, write_part

RECIPES = mmext.recipes()


@pytest.fixture(scope='session')
def made_data(demo_data, tmp_path_factory):
    """Suffix of a recipe's file name to a data set of its classes, a few images each."""
    shapes = tmp_path_factory.mktemp('shapes')
    for number, (part, images) in enumerate((('train', 8), ('val', 4))):
        list(write_part(shapes / part, images, (0, number), KINDS['shapes']))
    return {'microplastics': demo_data, 'demo': demo_data, 'shapes': shapes}


def named_in_header(text):
    """Codes of the line ``# Check:   code, code: why``."""
    line = text.splitlines()[4]
    if not line.startswith('# Check: '):
        return set()
    codes, _, why = line.removeprefix('# Check: ').strip().partition(': ')
    assert why.endswith('.')
    return {code.strip() for code in codes.split(',')}


def on(recipe, folder, config):
    """A child of a recipe with its data set replaced."""
    loader = f'dict(dataset=dict(data_root={f"{folder}/"!r}))'
    evaluator = f'dict(ann_file={str(folder / "val" / "annotations.json")!r})'
    lines = [f"_base_ = __import__('mmext').recipe({recipe!r})"]
    lines += [f'{name}_dataloader = {loader}' for name in ('train', 'val', 'test')]
    lines += [f'{name}_evaluator = {evaluator}' for name in ('val', 'test')]
    config.write_text('\n'.join(lines))
    return str(config)


@pytest.mark.parametrize('recipe', RECIPES)
def test_recipe_passes_or_says_why(recipe, made_data, tmp_path):
    folder = made_data[RECIPES[recipe].stem.rsplit('_', 1)[-1]]
    report = check(on(recipe, folder, tmp_path / 'config.py'))
    assert report.crashes == []
    found = {f.code: f.text for f in report.findings if f.severity != 'information'}
    assert found.keys() == named_in_header(RECIPES[recipe].read_text()), found
    assert len(report.ledgers) == 2
    assert report.ledgers[0].reaching == report.ledgers[0].total > 0
