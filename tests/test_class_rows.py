import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, MaskIoUHead, MaskPointHead
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmext
from mmext.class_rows import COCO_CLASSES, ClassAxis, class_tensors, find_rows, with_rows
from mmext.data.own_data import with_num_classes
from mmext.errors import InputError

FAMILIES = [name for name in mmext.recipes() if '_r18_' in name and name.endswith('_finetune')]
# the two lists share c and a; x and y are new
THEIRS, OURS = ('a', 'b', 'c'), ('c', 'x', 'y', 'a')
BASE = 'mask-rcnn_r18_fpn_finetune'
BOX, MASK = 'roi_head.bbox_head', 'roi_head.mask_head'


def model_cfg(recipe, classes, options=None):
    cfg = Config.fromfile(mmext.recipe(recipe))
    cfg.merge_from_dict({'model': with_num_classes(cfg.model, classes), **(options or {})})
    return cfg.model


def built(recipe, classes, seed=0, options=None):
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    return MODELS.build(model_cfg(recipe, classes, options)).eval()


def checkpoint_of(model, classes=THEIRS):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {'state_dict': state, 'meta': {'dataset_meta': {'classes': classes}}}


@pytest.fixture(scope='module')
def source():
    return built(BASE, 3, seed=1)


@pytest.fixture(scope='module')
def target():
    return built(BASE, 4, seed=2)


# every family, and every recipe that changes the heads
WITH_HEADS_OF_THEIR_OWN = [
    name for name, path in mmext.recipes().items() if path.parent.name in ('demo', 'mask_ablation', 'mask_loss')
]


@pytest.mark.parametrize('recipe', WITH_HEADS_OF_THEIR_OWN)
def test_every_tensor_that_follows_the_number_of_classes_is_known(recipe):
    init_default_scope('mmdet')
    with torch.device('meta'):
        five, seven = (MODELS.build(model_cfg(recipe, classes)) for classes in (5, 7))
    shapes = {name: value.shape for name, value in seven.named_parameters()}
    counting = {name for name, value in five.named_parameters() if value.shape != shapes[name]}
    found, unknown = class_tensors(five, 5)
    assert (set(found), unknown) == (counting, [])


def outputs(model, classes):
    """What each head says of each class on the same input: name to (K, ...)."""
    torch.manual_seed(0)
    found = {}
    for name, head in model.named_modules():
        if isinstance(head, BBoxHead):
            scores, boxes = head(torch.randn(2, head.in_channels, 7, 7))
            found[f'{name} scores'], found[f'{name} background'] = scores.T[:-1], scores.T[-1:].expand(len(classes), -1)
            if not head.reg_class_agnostic:
                found[f'{name} boxes'] = boxes.view(2, len(classes), 4).transpose(0, 1)
        elif isinstance(head, FCNMaskHead):
            masks = head(torch.randn(2, head.in_channels, 14, 14))
            found[name] = (masks[0] if isinstance(masks, list) else masks).transpose(0, 1)
        elif isinstance(head, MaskPointHead):
            fine, drawn = torch.randn(2, head.in_channels, 5), {name: torch.randn(2, 5) for name in 'abc'}
            # the columns of classes that only one of the two models has say nothing here
            coarse = torch.stack([drawn[one] if one in 'ac' else torch.zeros(2, 5) for one in classes], dim=1)
            found[name] = head(fine, coarse).transpose(0, 1)
        elif isinstance(head, MaskIoUHead):
            found[name] = head(torch.randn(2, head.in_channels, 14, 14), torch.randn(2, 28, 28)).T
        elif type(head).__name__ == 'SOLOV2Head':
            _, scores, _ = head([torch.randn(1, head.in_channels, side, side) for side in (64, 32, 16, 8, 4)])
            found[name] = torch.cat([level[0].flatten(1) for level in scores], 1)
    return found


@pytest.mark.parametrize('recipe', FAMILIES)
def test_a_shared_class_is_predicted_as_the_source_predicts_it(recipe):
    theirs, ours = built(recipe, 3, seed=1), built(recipe, 4, seed=2)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    checkpoint = checkpoint_of(theirs)
    found = find_rows(ours, checkpoint, OURS)
    found.put_into(checkpoint)
    ours.load_state_dict(checkpoint['state_dict'])  # strict: nothing is left out
    with torch.no_grad():
        expected, given = outputs(theirs, THEIRS), outputs(ours, OURS)
    assert expected.keys() == given.keys()
    assert len(expected) >= 1
    for name, values in expected.items():
        shared = given[name][[0, 3]]
        assert torch.allclose(values[[2, 0]], shared, rtol=1e-4, atol=1e-5), name
        assert not torch.allclose(values[[0, 2]], shared, rtol=1e-3) or 'background' in name
    assert set(found.rows) == set(class_tensors(ours, 4)[0])
    for name, rows in found.rows.items():
        after, dim = ours.state_dict()[name], {'rows': 0, 'columns': 1}[rows.what]
        moved = (after != before[name]).transpose(0, dim).flatten(1).any(1) if after.dim() > 1 else after != before[name]
        assert (int(moved.sum()), len(moved)) == (rows.loaded, rows.total)


def test_rows_are_copied_to_the_bit_and_said(source, target):
    found = find_rows(target, checkpoint_of(source), OURS)
    old, new, own = source.state_dict(), found.tensors, target.state_dict()
    for key in ('weight', 'bias'):
        cls, box, mask = f'{BOX}.fc_cls.{key}', f'{BOX}.fc_reg.{key}', f'{MASK}.conv_logits.{key}'
        assert torch.equal(new[cls], torch.stack([old[cls][2], own[cls][1], own[cls][2], old[cls][0], old[cls][3]]))
        assert torch.equal(new[box], torch.cat([old[box][8:], own[box][4:12], old[box][:4]]))
        assert torch.equal(new[mask], torch.stack([old[mask][2], own[mask][1], own[mask][2], old[mask][0]]))
        assert str(found.rows[cls]) == '3 of 5 rows loaded (c, a, background)'
        assert str(found.rows[box]) == '8 of 16 rows loaded (c, a)'
        assert str(found.rows[mask]) == '2 of 4 rows loaded (c, a)'
    assert len(new) == 6
    assert found.lines == ['Classes that keep their rows of the checkpoint: c, a. New: x, y.']


def test_columns_of_the_point_head_are_named_so():
    recipe = 'point-rend_r18_fpn_finetune'
    found = find_rows(built(recipe, 4, seed=2), checkpoint_of(built(recipe, 3, seed=1)), OURS)
    assert str(found.rows['roi_head.point_head.fcs.0.conv.weight']) == '66 of 68 columns loaded (c, a)'
    assert str(found.rows['roi_head.point_head.fc_logits.weight']) == '2 of 4 rows loaded (c, a)'


def test_another_order_of_as_many_classes_goes_by_name(source):
    found = find_rows(source, checkpoint_of(source), ('c', 'a', 'b'))
    old = source.state_dict()[f'{BOX}.fc_cls.weight']
    assert torch.equal(found.tensors[f'{BOX}.fc_cls.weight'], old[[2, 0, 1, 3]])
    assert all(rows.whole for rows in found.rows.values())
    assert found.lines == ['Classes that keep their rows of the checkpoint: c, a, b. New: none.']


def test_the_place_of_a_class_that_is_gone_is_no_start_for_a_new_one(source):
    ours = built(BASE, 3, seed=2)
    found = find_rows(ours, checkpoint_of(source), ('a', 'x', 'c'))
    name = f'{BOX}.fc_cls.weight'
    assert torch.equal(found.tensors[name][1], ours.state_dict()[name][1])


@pytest.mark.parametrize(
    ('number', 'classes', 'words'),
    [
        (3, THEIRS, None),
        (4, ('x', 'y', 'z', 'w'), r'No class of the data \(x, y, z, w\) is one of the checkpoint \(a, b, c\).*start new'),
        (3, ('x', 'y', 'z'), 'their rows are loaded in order: a for x.*class_rows.map.x=a'),
    ],
)
def test_without_a_shared_name_loading_is_mmdetections(source, number, classes, words):
    checkpoint = checkpoint_of(source)
    before = dict(checkpoint['state_dict'])
    found = find_rows(built(BASE, number, seed=2), checkpoint, classes)
    found.put_into(checkpoint)
    assert found.tensors == found.rows == {}
    assert all(value is before[name] for name, value in checkpoint['state_dict'].items())
    assert len(found.lines) == (words is not None)
    if words:
        with pytest.raises(InputError, match=words):
            raise InputError(found.lines[0])


@pytest.mark.parametrize(
    'form',
    [
        lambda state: {'state_dict': state, 'meta': {'dataset_meta': {'CLASSES': THEIRS}}},
        lambda state: {'state_dict': state, 'meta': {'CLASSES': list(THEIRS)}},
        lambda state: {'state_dict': {f'module.{k}': v for k, v in state.items()}, 'meta': {'CLASSES': THEIRS}},
        lambda state: (
            {'state_dict': {k: v.half() if v.is_floating_point() else v for k, v in state.items()}}
            | {'meta': {'CLASSES': THEIRS}}
        ),
    ],
    ids=['early 3.x', '2.x', 'from DataParallel', 'half precision'],
)
def test_older_forms_of_checkpoints(source, target, form):
    checkpoint = form(source.state_dict())
    found = find_rows(target, checkpoint, OURS)
    found.put_into(checkpoint)
    (key,) = [key for key in checkpoint['state_dict'] if key.endswith('fc_cls.weight')]
    half = checkpoint['state_dict'][key.replace('fc_cls.weight', 'shared_fcs.0.weight')].dtype == torch.float16
    row = source.state_dict()[f'{BOX}.fc_cls.weight'][2]
    assert checkpoint['state_dict'][key].dtype == torch.float32
    assert torch.equal(checkpoint['state_dict'][key][0], row.half().float() if half else row)


def test_a_nameless_checkpoint_of_80_classes_is_cocos(target):
    state = built(BASE, 80, seed=1).state_dict()
    found = find_rows(target, state, ('Person', 'x', 'cell_phone', 'y'))  # the weights alone, without anything around them
    name = f'{BOX}.fc_cls.weight'
    assert torch.equal(found.tensors[name][2], state[name][COCO_CLASSES.index('cell phone')])
    assert str(found.rows[name]) == '3 of 5 rows loaded (Person, cell_phone, background)'
    assert 'Person (from person), cell_phone (from cell phone). New: x, y.' in found.lines[0]
    # as many of one's own may be any: they are left alone
    assert find_rows(built(BASE, 80), state, tuple(f'class {i}' for i in range(80))).tensors == {}


def test_names_can_be_given_where_the_checkpoint_has_none(source, target):
    state = source.state_dict()
    assert 'does not name its classes' in find_rows(target, state, OURS).lines[0]
    found = find_rows(target, state, OURS, checkpoint_classes=THEIRS)
    assert found.rows == find_rows(target, checkpoint_of(source), OURS).rows
    with pytest.raises(InputError, match=r'does not name its classes.*checkpoint_classes=one,two'):
        find_rows(target, state, OURS, {'x': 'b'})


def test_a_map_goes_before_the_name(source, target):
    found = find_rows(target, checkpoint_of(source), OURS, {'x': 'b', 'a': 'B', 'c': None})
    name = f'{BOX}.fc_cls.weight'
    old = source.state_dict()[name]
    assert torch.equal(found.tensors[name][[1, 3, 4]], old[[1, 1, 3]])
    assert torch.equal(found.tensors[name][[0, 2]], target.state_dict()[name][[0, 2]])
    assert found.lines == ['Classes that keep their rows of the checkpoint: x (from b), a (from b). New: c, y.']


def test_mistakes_of_a_map_come_at_once(source, target):
    with pytest.raises(InputError) as error:
        find_rows(target, checkpoint_of(source), OURS, {'xx': 'a', 'x': 'bb', 'y': 'c'})
    text = str(error.value)
    assert "default_hooks.class_rows.map xx=a: 'xx' is no class of the data. Did you mean 'x'? It has: c, x, y, a." in text
    assert "map x=bb: 'bb' is no class of the checkpoint. Did you mean 'b'? It has: a, b, c." in text
    assert 'y=c' not in text
    for wrong in ('x=b', {'x': 3}, ['x']):
        with pytest.raises(InputError, match='it must be a dict'):
            find_rows(target, checkpoint_of(source), OURS, wrong)
    with pytest.raises(InputError, match='Add a comma'):
        find_rows(target, checkpoint_of(source), OURS, checkpoint_classes='b')


def test_what_is_said_of_the_checkpoint_before_is_not_for_the_runs_own(source):
    found = find_rows(source, checkpoint_of(source), THEIRS, {'a': 'hair'}, checkpoint_classes=('hair', 'c', 'b'))
    assert (found.tensors, found.lines) == ({}, [])


def test_heads_of_another_size_are_left_as_mmdetection_leaves_them(source):
    wide = built(BASE, 4, options={'model.roi_head.bbox_head.fc_out_channels': 128})
    found = find_rows(wide, checkpoint_of(source), OURS)
    assert set(found.rows) == {f'{MASK}.conv_logits.{key}' for key in ('weight', 'bias')}
    backbone = {k: v for k, v in checkpoint_of(source)['state_dict'].items() if k.startswith('backbone.')}
    found = find_rows(wide, {'state_dict': backbone, 'meta': {'CLASSES': THEIRS}}, OURS)
    assert found.rows == {}
    assert found.lines == ['The checkpoint has c, a too, but no rows of them that fit the heads of this model.']


class OwnHead(nn.Linear):
    num_classes = 4


def test_what_counts_classes_in_another_way_is_named(source):
    options = {'model.roi_head.bbox_head.loss_cls': {'_delete_': True, 'type': 'SeesawLoss', 'num_classes': 4}}
    ours = built(BASE, 4, options=options)
    ours.own_head = OwnHead(2, 4)
    found = find_rows(ours, checkpoint_of(source), OURS)
    assert f'{BOX}.fc_cls.weight' not in found.rows
    assert f'{BOX}.fc_reg.weight' in found.rows
    assert found.lines[1].endswith(f'is not known: {BOX}.fc_cls.weight, {BOX}.fc_cls.bias, own_head (OwnHead).')


def test_class_agnostic_layers_are_loaded_whole():
    options = {'model.roi_head.mask_head.class_agnostic': True, 'model.roi_head.bbox_head.reg_class_agnostic': True}
    found = find_rows(built(BASE, 4, 2, options), checkpoint_of(built(BASE, 3, 1, options)), OURS)
    assert set(found.rows) == {f'{BOX}.fc_cls.weight', f'{BOX}.fc_cls.bias'}


@st.composite
def axes_and_labels(draw):
    ours, theirs = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    labels = draw(st.lists(st.integers(0, ours - 1), min_size=1, max_size=ours, unique=True))
    of = [draw(st.integers(0, theirs - 1)) for _ in labels]
    number = st.integers(0, 3)
    axes = [ClassAxis(dim, draw(number), draw(st.integers(1, 3)), draw(number)) for dim in range(draw(st.integers(1, 2)))]
    return ours, theirs, labels, of, axes


@given(axes_and_labels())
def test_entries_are_those_of_the_class_and_of_no_other(drawn):
    ours, theirs, labels, of, axes = drawn
    own, old = (
        sign * torch.arange(1.0, 1 + torch.Size(axis.size(n) for axis in axes).numel()).view([axis.size(n) for axis in axes])
        for sign, n in ((-1, ours), (1, theirs))
    )
    new = with_rows(own, old, axes, [a.places(labels, ours) for a in axes], [a.places(of, theirs) for a in axes])

    def source_of(axis, place):
        """The place in the old tensor that an entry of the new one is from, None where it is the model's own."""
        if place < axis.before:
            return place
        if place >= axis.before + axis.block * ours:
            return place - axis.block * (ours - theirs)
        label, within = divmod(place - axis.before, axis.block)
        return axis.before + axis.block * of[labels.index(label)] + within if label in labels else None

    for place in torch.cartesian_prod(*(torch.arange(size) for size in new.shape)).view(-1, new.dim()).tolist():
        found = [source_of(axis, one) for axis, one in zip(axes, place, strict=True)]
        expected = own[tuple(place)] if None in found else old[tuple(found)]
        assert new[tuple(place)] == expected
