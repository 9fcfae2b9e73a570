from pathlib import Path

import modelindex
import pytest

import mmext

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {name: path for name, path in mmext.recipes().items() if path.parent.name != 'demo'}


@pytest.fixture(scope='module')
def index():
    found = modelindex.load(str(ROOT / 'model-index.yml'))
    found.build_models_with_collections()
    return found


def test_the_model_index_has_every_recipe_at_its_place(index):
    assert {model.name: model.config for model in index.models} == {
        path.stem: path.relative_to(ROOT).as_posix() for path in RECIPES.values()
    }


def test_every_recipe_belongs_to_a_collection(index):
    assert {model.in_collection for model in index.models} == {collection.name for collection in index.collections}


@pytest.mark.parametrize('recipe', RECIPES)
def test_the_page_of_models_has_operations_and_times(recipe):
    lines = (ROOT / 'docs/models.md').read_text().partition("## S2's figures")[0].splitlines()
    (row,) = [line for line in lines if line.startswith(f'| `{recipe}` |')]
    operations, training, prediction = (cell.split()[0] for cell in row.strip('| ').split(' | ')[-3:])
    assert float(operations) > 0
    assert float(training) > 0
    assert float(prediction) > 0
