"""The tables of the bench of `mmext diagnose`, from its records."""

from collections import Counter, defaultdict
from statistics import mean

from cases import CASES, Case
from rich.table import Table

from mmext.analysis.findings import SEVERITIES
from mmext.console import console

NOTHING = 'nothing'


def first_code(record: dict) -> str:
    """What a run is said to have: its first finding that is no information."""
    problems = [one for one in record['findings'] if one['severity'] != 'information']
    return problems[0]['code'] if problems else NOTHING


def named(case: Case, record: dict) -> tuple[bool, bool]:
    """Whether a fault is named first, and whether it is named as a problem at all."""
    if case.refuses:
        return record['refused'], record['refused']
    problems = {one['code'] for one in record['findings'] if one['severity'] != 'information'}
    return first_code(record) in case.codes, bool(problems & set(case.codes))


def alarms(record: dict) -> dict[str, str]:
    """Findings of a run without a fault, with their severity; information is none."""
    return {one['code']: one['severity'] for one in record['findings'] if one['severity'] != 'information'}


def other_causes(case: Case, record: dict) -> list[str]:
    """What a run with a fault is said to have beside it, unless it follows from something else."""
    return [
        one['code']
        for one in record.get('findings', ())
        if one['severity'] != 'information' and one['follows_from'] is None and one['code'] not in case.codes
    ]


def by_case(runs: dict[str, dict]) -> list[tuple[Case, list[dict]]]:
    return [(case, list(runs[case.name].values())) for case in CASES if case.name in runs]


def planted_table(runs: dict[str, dict]) -> Table:
    table = Table(title='Planted', title_justify='left')
    for heading in ('planted', 'runs', 'named first', 'named', 'said first', 'said besides', 'box AP', 'mask AP', 'IoU won'):
        table.add_column(heading)
    totals = Counter()
    for case, records in by_case(runs):
        if not (case.codes or case.refuses):
            continue
        answers = [named(case, record) for record in records]
        first, at_all = (sum(one[i] for one in answers) for i in (0, 1))
        totals.update(runs=len(records), first=first, named=at_all)
        if case.refuses:
            said, besides, rest = Counter('the run refuses' for one in answers if one[0]), Counter(), ['', '', '']
        else:
            said = Counter(map(first_code, records))
            besides = Counter(
                code for record in records for code in other_causes(case, record) if code != first_code(record)
            )
            rest = [_mean(record['box_ap'] for record in records), _mean(record['mask_ap'] for record in records)]
            rest.append(_mean(max(record['experiments'].values(), default=None) for record in records))
        table.add_row(case.name, str(len(records)), str(first), str(at_all), _counts(said), _counts(besides), *rest)
    if totals['runs']:
        shares = (f'{totals[key]} ({totals[key] / totals["runs"]:.0%})' for key in ('first', 'named'))
        table.add_section()
        table.add_row('all', str(totals['runs']), *shares)
    return table


def healthy_table(runs: dict[str, dict]) -> Table:
    table = Table(title='Without a fault', title_justify='left')
    for heading in ('run', 'runs', *(f'{severity} findings' for severity in SEVERITIES[:2]), 'box AP', 'mask AP'):
        table.add_column(heading)
    for case, records in by_case(runs):
        if case.codes or case.refuses:
            continue
        found = {severity: Counter() for severity in SEVERITIES[:2]}
        for record in records:
            for code, severity in alarms(record).items():
                found[severity][code] += 1
        levels = (_mean(record[key] for record in records) for key in ('box_ap', 'mask_ap'))
        table.add_row(case.name, str(len(records)), *(_counts(one) or '0' for one in found.values()), *levels)
    return table


def confusion_table(runs: dict[str, dict]) -> Table:
    """Rows: what was planted; columns: what was said first."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for case, records in by_case(runs):
        for record in records:
            said = ('the run refuses' if record['refused'] else NOTHING) if case.refuses else first_code(record)
            counts[case.name][said] += 1
    codes = sorted({code for row in counts.values() for code in row})
    # a column is as wide as its number: twenty codes side by side fit no screen
    said = ', '.join(f'{number} {code}' for number, code in enumerate(codes, 1))
    table = Table(title=f'Planted (rows) and said first (columns): {said}', title_justify='left')
    table.add_column('', no_wrap=True)
    for number in range(1, len(codes) + 1):
        table.add_column(str(number), no_wrap=True)
    for name, row in counts.items():
        table.add_row(name, *(str(row[code] or '') for code in codes))
    return table


def advice_table(runs: dict[str, dict]) -> Table:
    table = Table(title="Trained again from --write-config's config: mask AP", title_justify='left')
    for heading in ('planted', 'runs', 'with the fault', 'mended', 'healthy'):
        table.add_column(heading)
    healthy = _mean(record['mask_ap'] for record in runs.get('healthy', {}).values())
    for case, records in by_case(runs):
        pairs = [record for record in records if record.get('mended_mask_ap') is not None]
        if pairs:
            levels = (_mean(record[key] for record in pairs) for key in ('mask_ap', 'mended_mask_ap'))
            table.add_row(case.name, str(len(pairs)), *levels, healthy if case.kinds == 'particles' else '')
    return table


def tide_table(runs: dict[str, dict]) -> Table:
    """What TIDE (Bolya et al. 2020) says: the error type with the largest gain in AP50, over the runs of a case."""
    table = Table(title="TIDE's largest error type (hotcoco), and mmext's first finding", title_justify='left')
    for heading in ('run', 'TIDE', 'gain in AP50', 'mmext'):
        table.add_column(heading)
    for case, records in by_case(runs):
        found = [record['tide'] for record in records if record.get('tide')]
        types = {kind for one in found for kind in one} - {'FP', 'FN'}
        if not types:
            continue
        means = {kind: mean(one[kind] for one in found) for kind in types}
        worst = max(means, key=means.get)
        table.add_row(case.name, worst, f'{means[worst]:.3f}', _counts(Counter(map(first_code, records))))
    return table


def print_tables(runs: dict[str, dict]) -> None:
    out = console()
    tables = [planted_table(runs), healthy_table(runs), confusion_table(runs), advice_table(runs), tide_table(runs)]
    for table in tables:
        if table.rows:
            out.print(table)
    seconds = [record['diagnosis_s'] for _, records in by_case(runs) for record in records if 'diagnosis_s' in record]
    if seconds:
        out.print(f'A diagnosis took {mean(seconds):.0f} s ({min(seconds)} to {max(seconds)}).')


def _mean(values) -> str:
    values = [value for value in values if value is not None]
    return f'{mean(values):.3f}' if values else '-'


def _counts(counter: Counter) -> str:
    return ', '.join(f'{code} {number}' if number > 1 else code for code, number in counter.most_common())
