"""What a check or a diagnosis found, with its remedy. No torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

# severe: training or its figures are wrong; warning: probably not what is wanted; information: worth knowing
SEVERITIES = ('severe', 'warning', 'information')
_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    ``code`` names its kind (``mask-outside-image``) and never changes; ``text`` says it in a sentence with its numbers;
    ``count`` how many cases; ``examples`` up to five of them in words; ``remedy`` the config line or the step that mends it;
    ``where`` the part it belongs to: train, val, config, or train view, which is train after its pipeline.
    """

    code: str
    severity: str
    text: str
    count: int = 1
    examples: tuple[str, ...] = ()
    remedy: str | None = None
    where: str | None = None

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(f'{self.code}: severity is {self.severity!r}; allowed: {", ".join(SEVERITIES)}.')


def first(cases: Iterable) -> tuple[str, ...]:
    """Up to five cases as text, for ``examples``."""
    return tuple(str(case) for _, case in zip(range(_EXAMPLES), cases, strict=False))


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Severe ones first, each severity in the order given."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def is_problem(findings: Iterable[Finding]) -> bool:
    """Whether a command that found these ends with exit code 1: information alone is none."""
    return any(finding.severity != 'information' for finding in findings)


def to_record(findings: Iterable[Finding]) -> list[dict]:
    """For JSON."""
    return [asdict(finding) for finding in findings]
