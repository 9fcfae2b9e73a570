"""The table of parameter groups: which part learns at which rate, and what of it came from the checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from mmext.class_rows import LoadedRows
from mmext.errors import InputError
from mmext.optim.param_groups import part_of

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GroupRow:
    """One parameter group, or a part that is wholly frozen (``lr`` None).

    ``tensors`` and ``parameters`` count the group with the frozen parameters of its part; ``trainable_tensors`` and
    ``trainable`` only what learns. ``fresh`` names the tensors that no checkpoint filled, or not all of, each with the
    reason; None when there was no checkpoint to look at. ``rows`` has the tensors that were loaded by class.
    """

    name: str
    part: str
    lr: float | None
    multiplier: float | None
    weight_decay: float | None
    tensors: int
    parameters: int
    trainable_tensors: int
    trainable: int
    fresh: dict[str, str] | None
    rows: dict[str, LoadedRows] = field(default_factory=dict)

    @property
    def in_part(self) -> int:
        """Tensors of which some rows are the checkpoint's and some are new."""
        return sum(not found.whole for found in self.rows.values())


def fresh_tensors(model: nn.Module, checkpoint: Mapping, rows: Mapping[str, LoadedRows] | None = None) -> dict[str, str]:
    """Parameters of the model that a checkpoint does not fill, or not all of, each with the reason.

    Args:
        model: the model before or after loading.
        checkpoint: what ``torch.load`` gave: a state dict, or a dict that holds one under ``state_dict``.
        rows: what of it was put together by class.

    Raises:
        InputError: when not one tensor fits; MMEngine would train on from scratch in silence.
    """
    state = checkpoint.get('state_dict', checkpoint)
    shapes = {name.removeprefix('module.'): tuple(value.shape) for name, value in state.items() if hasattr(value, 'shape')}
    parameters = {name.removeprefix('module.'): tuple(value.shape) for name, value in model.named_parameters()}
    by_class, fresh = rows or {}, {}
    for name, shape in parameters.items():
        if name in by_class:
            if not by_class[name].whole:
                fresh[name] = str(by_class[name])
        elif name not in shapes:
            fresh[name] = 'not in the checkpoint'
        elif shapes[name] != shape:
            fresh[name] = f'other shape: {shapes[name]} in the checkpoint, {shape} in the model'
    if len(fresh) == len(parameters):
        theirs = next(iter(shapes), 'none')
        raise InputError(
            f'load_from: not one of the {len(parameters)} tensors of the model is in the checkpoint with its shape. '
            f'The checkpoint has names such as {theirs!r}, the model {next(iter(parameters), "none")!r}. '
            'A backbone alone belongs in model.backbone.init_cfg=dict(type="Pretrained", checkpoint=...).'
        )
    return fresh


def group_rows(
    model: nn.Module,
    optimizer: Optimizer,
    fresh: Mapping[str, str] | None = None,
    rows: Mapping[str, LoadedRows] | None = None,
) -> list[GroupRow]:
    """One row a group, in the optimizer's order; frozen parameters count in the first row of their part.

    Args:
        model: the model, not wrapped.
        optimizer: built by mmext.NamedParamGroupConstructor.
        fresh: as ``fresh_tensors`` gives it, or None when there is no checkpoint.
        rows: tensors that were loaded by class.

    Raises:
        InputError: when a group has no name.
    """
    check_named(optimizer.param_groups)
    parameters = dict(model.named_parameters())
    held = {name for group in optimizer.param_groups for name in group['param_names']}
    outside: dict[str, list[str]] = {}
    for name in parameters:
        if name not in held:
            outside.setdefault(part_of(name), []).append(name)

    def row(name: str, names: Sequence[str], group: Mapping) -> GroupRow:
        trainable = [parameters[n].numel() for n in names if parameters[n].requires_grad]
        return GroupRow(
            name=name,
            part=name.split('.')[0],
            lr=group.get('initial_lr', group.get('lr')),
            multiplier=group.get('multiplier'),
            weight_decay=group.get('weight_decay'),
            tensors=len(names),
            parameters=sum(parameters[n].numel() for n in names),
            trainable_tensors=len(trainable),
            trainable=sum(trainable),
            fresh=None if fresh is None else {n: fresh[n] for n in names if n in fresh},
            rows={n: rows[n] for n in names if n in (rows or {})},
        )

    found = []
    for group in optimizer.param_groups:
        names = [*group['param_names'], *outside.pop(group['name'].split('.')[0], [])]
        found.append(row(group['name'], names, group))
    return found + [row(part, names, {}) for part, names in outside.items()]


def check_named(param_groups: Sequence[Mapping]) -> None:
    """Raise InputError when a parameter group has no name."""
    nameless = sum('name' not in group for group in param_groups)
    if nameless:
        raise InputError(
            f'GroupLRHook: {nameless} of {len(param_groups)} parameter groups have no name. '
            "Set optim_wrapper.constructor='mmext.NamedParamGroupConstructor'."
        )


def to_record(rows: Sequence[GroupRow]) -> dict:
    """The machine-readable form: ``{schema_version, groups: [{name, part, lr, ..., fresh: [names] or null, rows}]}``.

    ``rows``: tensor to ``{loaded, total, what, classes}``; one that was not loaded whole is in ``fresh`` too.
    """
    groups = []
    for row in rows:
        record = asdict(row)
        record['fresh'] = None if row.fresh is None else list(row.fresh)
        record['fresh_because'] = row.fresh
        groups.append(record)
    return {'schema_version': SCHEMA_VERSION, 'groups': groups}


def to_table(rows: Sequence[GroupRow]) -> Table:
    """The table for people."""
    loaded, in_part = any(row.fresh is not None for row in rows), any(row.in_part for row in rows)
    table = Table(title='Parameter groups', title_justify='left')
    table.add_column('part')
    for heading in ('tensors', 'parameters', 'trainable', 'learning rate', 'x base', 'weight decay'):
        table.add_column(heading, justify='right')
    if loaded:
        for heading in ('loaded', 'in part', 'new') if in_part else ('loaded', 'new'):
            table.add_column(heading, justify='right')
    for row in rows:
        cells = [row.name, f'{row.tensors:,}', f'{row.parameters:,}', f'{row.trainable:,}']
        cells += (
            ['frozen', '', '']
            if row.lr is None
            else [
                f'{row.lr:.3g}',
                '' if row.multiplier is None else f'{row.multiplier:.4g}',
                '' if row.weight_decay is None else f'{row.weight_decay:.3g}',
            ]
        )
        if loaded:
            cells += _loaded_cells([row], in_part)
        table.add_row(*cells)
    totals = [f'{sum(getattr(row, field) for row in rows):,}' for field in ('tensors', 'parameters', 'trainable')]
    table.add_section()
    sums = ['all', *totals, '', '', '']
    if loaded:
        sums += _loaded_cells(rows, in_part)
    table.add_row(*sums)
    return table


def _loaded_cells(rows: Sequence[GroupRow], in_part: bool) -> list[str]:
    fresh, some_rows = sum(len(row.fresh) for row in rows), sum(row.in_part for row in rows)
    loaded = sum(row.tensors for row in rows) - fresh
    return [str(number) for number in ((loaded, some_rows, fresh - some_rows) if in_part else (loaded, fresh))]


def fresh_lines(rows: Sequence[GroupRow], frozen: Sequence[str] = ()) -> list[str]:
    """The new tensors with the reason for each, and those that were loaded by class; a warning for what is frozen too and so
    stays random."""

    def note(name: str) -> str:
        return '  FROZEN: it stays as it was initialised' if name in frozen else ''

    lines, by_class = [], []
    for row in rows:
        fresh = row.fresh or {}
        lines += [f'  new  {name}  ({why}){note(name)}' for name, why in fresh.items() if name not in row.rows]
        by_class += [f'  {name}  {found}{note(name) if name in fresh else ""}' for name, found in row.rows.items()]
    if lines:
        lines.insert(0, 'New tensors, which start from their initialisation and not from the checkpoint:')
    if by_class:
        lines += ['Loaded by the names of the classes; rows of other classes start from their initialisation:', *by_class]
    return lines
