"""Runs side by side: where their configs differ and what came out. No torch."""

from collections.abc import Sequence

from rich.table import Table

from mmext.analysis.runs import AP_METRICS, Run
from mmext.analysis.shares import by_family, shares

SCHEMA_VERSION = 1
MISSING = '-'


def config_differences(runs: Sequence[Run]) -> dict[str, list[object]]:
    """Dotted config key to its value in each run, for the keys whose values are not all the same; MISSING where absent."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = {key: [run.config.get(key, MISSING) for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def summary(run: Run) -> dict:
    """What came out of a run: best metrics, and losses and shares of its last log line."""
    last = run.train[-1] if run.train else {}
    return {
        'run': run.name,
        'path': str(run.path),
        'problem': run.problem,
        'end': run.end,
        'epoch': last.get('epoch'),
        'iteration': last.get('step', last.get('iter')),
        'best': {name: run.best(metric) for name, metric in AP_METRICS.items()},
        'loss': last.get('loss'),
        'losses': by_family(last),
        'shares': shares(last),
    }


def to_record(runs: Sequence[Run]) -> dict:
    """The machine-readable form."""
    differences = config_differences([run for run in runs if run.config])
    return {
        'schema_version': SCHEMA_VERSION,
        'runs': [summary(run) for run in runs],
        'config_differences': {
            key: dict(zip([str(run.path) for run in runs if run.config], values, strict=True))
            for key, values in differences.items()
        },
    }


def result_table(runs: Sequence[Run]) -> Table:
    """Best metrics, a row a run."""
    table = Table(title='Best validation', title_justify='left')
    table.add_column('run', overflow='fold')
    for heading in ('epochs', *AP_METRICS):
        table.add_column(heading, justify='right')
    for row in map(summary, runs):
        table.add_row(row['run'], _number(row['epoch'], '.0f'), *(_number(row['best'][name], '.3f') for name in AP_METRICS))
    return table


def loss_table(runs: Sequence[Run]) -> Table:
    """Losses of each run's last log line with their shares of the total, a row a run."""
    rows = [summary(run) for run in runs]
    families = list(dict.fromkeys(family for row in rows for family in row['losses']))
    table = Table(title='Last log line: loss and share of the total', title_justify='left')
    table.add_column('run', overflow='fold')
    for heading in ('total', *families):
        table.add_column(heading, justify='right', no_wrap=True)
    for row in rows:
        cells = [_number(row['loss'], '.3f')]
        for family in families:
            loss, share = row['losses'].get(family), row['shares'].get(family)
            cells.append(_number(loss, '.3f') + (f' {share:.0%}' if share is not None else ''))
        table.add_row(row['run'], *cells)
    return table


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else f'{value:{form}}'


def difference_table(runs: Sequence[Run]) -> Table | None:
    """The config lines in which runs differ, a column a run; None when they do not."""
    readable = [run for run in runs if run.config]
    differences = config_differences(readable)
    if not differences:
        return None
    table = Table(title='Config lines in which they differ', title_justify='left')
    table.add_column('key', overflow='fold')
    for run in readable:
        table.add_column(run.name, overflow='fold')
    for key, values in differences.items():
        table.add_row(key, *(value if value is MISSING else repr(value) for value in values))
    return table
