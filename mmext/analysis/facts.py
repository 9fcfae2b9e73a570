"""What the records of a run say, in the form in which rules ask for it. No torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmext.analysis.runs import Run
from mmext.analysis.shares import bands_hold, by_family, family_of, shares, unweighted
from mmext.analysis.trends import Interval, change

# where the modules of a part are in MMDetection's models, for custom keys, which match names of parameters
PART_PATHS = {
    'backbone': 'backbone.',
    'neck': 'neck.',
    'rpn_head': 'rpn_head.',
    'bbox_head': 'roi_head.bbox_head.',
    'mask_head': 'roi_head.mask_head.',
}
HEADS = ('rpn_head', 'bbox_head', 'mask_head')
# Theil-Sen's interval of five points is their whole range; eight leave room for a noisy one
TREND_POINTS = 8
VALIDATIONS = 5
# a level is a median: of two lines it is none
LEVEL_LINES = 3
# MMEngine's LogProcessor
_WINDOW = 10


@dataclass(frozen=True)
class Hit:
    """That a rule holds: ``values`` fill its words, ``settings`` are the config lines that mend it (dotted key to value),
    ``severity``, ``confidence`` and ``advice`` take the place of the rule's own where this case differs."""

    values: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    severity: str | None = None
    confidence: float | None = None
    advice: str | None = None


@dataclass(frozen=True)
class NotJudged:
    """That a rule had too little to go by, and what it lacks."""

    why: str


def number(value: object) -> float:
    """A number of the log as a float; a whole number beyond its range is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def loss_weights(config: Mapping[str, object]) -> dict[str, float]:
    """Weight of each loss other than 1, by the name under which the log has it.

    Args:
        config: dotted key to value: ``model.rpn_head.loss_cls.loss_weight`` is of ``loss_rpn_cls``,
            ``model.roi_head.bbox_head.1.loss_cls.loss_weight`` of ``s1.loss_cls``, times its stage's weight.
    """
    stages = config.get('model.roi_head.stage_loss_weights')
    weights = {}
    for key, value in config.items():
        found = re.fullmatch(r'model\.(?:roi_head\.)?(rpn|bbox|mask)_head\.(?:(\d+)\.)?(loss_\w+)\.loss_weight', key)
        if not found or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        head, stage, name = found.groups()
        weight = number(value)
        if head == 'rpn':
            name = name.replace('loss_', 'loss_rpn_', 1)
        elif stage is not None:
            name = f's{stage}.{name}'
            if isinstance(stages, list) and int(stage) < len(stages) and isinstance(stages[int(stage)], (int, float)):
                weight *= number(stages[int(stage)])
        if weight != 1:
            weights[name] = weight
    return weights


@dataclass(frozen=True)
class Facts:
    """A run, read for its diagnosis.

    Values of losses are those of log lines whose windows do not overlap: each line of MMEngine's log is a mean over the last
    iterations, and lines that share some of them would make every trend look surer than it is.
    """

    run: Run

    # ---- how far it is

    @cached_property
    def steps(self) -> np.ndarray:
        """Iteration of every log line."""
        return np.array([number(line.get('step', line.get('iter', i))) for i, line in enumerate(self.run.train)])

    @cached_property
    def epochs(self) -> np.ndarray | None:
        """Epoch of every log line; None when the log has none."""
        if not self.run.train or not all('epoch' in line for line in self.run.train):
            return None
        return np.array([number(line['epoch']) for line in self.run.train])

    @cached_property
    def by_epoch(self) -> bool:
        return self.setting('train_cfg.max_iters') is None and self.epochs is not None

    @cached_property
    def epoch_length(self) -> float | None:
        """Iterations of an epoch; None when it cannot be told."""
        if not self.by_epoch:
            return None
        ends: dict[float, float] = {}
        for epoch, step in zip(self.epochs.tolist(), self.steps.tolist(), strict=True):
            ends[epoch] = max(step, ends.get(epoch, step))
        lengths = [ends[epoch] - ends[epoch - 1] for epoch in ends if epoch - 1 in ends]
        # the last epoch may not be over; of two, the first ends where its last line stands or a little later
        whole = lengths[:-1] or [max(ends.get(1.0, 0.0), *lengths, 0.0)]
        length = float(np.median(whole))
        return length if math.isfinite(length) and length > 0 else None

    @cached_property
    def planned(self) -> float | None:
        """Length of the run in epochs or, without, iterations; None when the config does not say it."""
        value = self.setting('train_cfg.max_epochs' if self.by_epoch else 'train_cfg.max_iters')
        return number(value) if isinstance(value, (int, float)) and value > 0 else None

    @cached_property
    def done(self) -> float:
        """Epochs, or iterations, of the last log line."""
        last = (self.epochs if self.by_epoch else self.steps)[-1:]
        return float(last[0]) if len(last) and math.isfinite(last[0]) else 0.0

    @cached_property
    def iterations(self) -> float:
        """Iteration of the last log line."""
        finite = self.steps[np.isfinite(self.steps)]
        return float(finite[-1]) if len(finite) else 0.0

    @cached_property
    def ended(self) -> bool:
        """Whether the training is over: by its own record, or because its planned length is done."""
        if self.run.end is not None or self.stopped is not None:
            return True
        if self.planned is None:
            return False
        if not self.by_epoch:
            return self.done + self.spacing > self.planned
        if self.done < self.planned:
            return False
        validated = any(line.get('epoch') == self.planned for line in self.run.val)
        return validated or bool(self.epoch_length and self.iterations + self.spacing > self.planned * self.epoch_length)

    @cached_property
    def stopped(self) -> dict | None:
        """The fault with which the loss guard ended the training: it keeps the state before that step."""
        return next((fault for fault in self.run.faults if fault.get('state_before')), None)

    @cached_property
    def full_length(self) -> bool:
        """Whether it ended by its planned length, and not by early stopping or the guard."""
        return (
            self.ended
            and self.stopped is None
            and self.planned is not None
            and self.done >= self.planned - (0 if self.by_epoch else self.spacing)
        )

    @cached_property
    def spacing(self) -> float:
        """Iterations from one log line to the next."""
        apart = np.diff(self.steps)
        apart = apart[np.isfinite(apart) & (apart > 0)]
        return float(np.median(apart)) if len(apart) else 1.0

    # ---- losses

    @cached_property
    def points(self) -> np.ndarray:
        """Places of the log lines whose windows do not overlap."""
        processor = self.run.settings.get('log_processor')
        window = processor.get('window_size', _WINDOW) if isinstance(processor, dict) else _WINDOW
        window = window if isinstance(window, int) and window > 0 else _WINDOW
        stride = max(1, math.ceil(min(window, 10_000) / max(self.spacing, 1)))
        return np.arange(len(self.run.train) - 1, -1, -stride)[::-1]

    @cached_property
    def x(self) -> np.ndarray:
        """Iterations of the points."""
        return self.steps[self.points]

    @cached_property
    def families(self) -> dict[str, np.ndarray]:
        """Each loss family as it was optimised, at the points; NaN where a line has it not."""
        return self._at_points([by_family(self._losses(line)) for line in self.run.train])

    @cached_property
    def raw(self) -> dict[str, np.ndarray]:
        """Each loss family before its weights, at the points."""
        return self._at_points([by_family(unweighted(self._losses(line), self.weights)) for line in self.run.train])

    @cached_property
    def weights(self) -> dict[str, float]:
        return loss_weights(self.run.config)

    @cached_property
    def mask_loss(self) -> str | None:
        """Type of the one mask loss, by the config; None when it has several or says nothing."""
        kind = self.setting('model.roi_head.mask_head.loss_mask.type')
        return kind.rpartition('.')[2] if isinstance(kind, str) else None

    @cached_property
    def like_s4(self) -> bool:
        """Whether S4's figures are for these losses once their weights are taken off: Mask R-CNN, cross-entropy masks."""
        names = {name for line in self.run.train for name in self._losses(line)}
        return bands_hold(dict.fromkeys(names, 0.0), {}, self.mask_loss or '') and not self._without_loss

    @cached_property
    def _without_loss(self) -> bool:
        return any(weight == 0 for weight in self.weights.values())

    def _losses(self, line: Mapping) -> dict[str, float]:
        return {name: number(value) for name, value in line.items() if family_of(name)}

    def _at_points(self, lines: list[dict[str, float]]) -> dict[str, np.ndarray]:
        chosen = [lines[i] for i in self.points]
        names = dict.fromkeys(name for line in chosen for name in line)
        return {name: np.array([line.get(name, math.nan) for line in chosen]) for name in names}

    def late(self, values: np.ndarray) -> float | None:
        """Level at which a curve stands: median of its last fifth, of three points at least; None with fewer."""
        values = values[np.isfinite(values)]
        return float(np.median(values[-max(LEVEL_LINES, len(values) // 5) :])) if len(values) >= LEVEL_LINES else None

    def early(self, values: np.ndarray) -> float | None:
        """Median of its first three points."""
        values = values[np.isfinite(values)]
        return float(np.median(values[:LEVEL_LINES])) if len(values) >= LEVEL_LINES else None

    def change(self, values: np.ndarray, part: float = 1.0) -> Interval | None:
        """Factor by which a curve changes over the last ``part`` of the run, with its interval; None with too few points."""
        start = len(values) - round(len(values) * part)
        x, values = self.x[start:], values[start:]
        enough = np.isfinite(values).sum() >= (TREND_POINTS if part > 0.5 else LEVEL_LINES + 1)
        return change(x, values) if enough else None

    @cached_property
    def late_shares(self) -> dict[str, float]:
        """Share of each family in the raw total, as it stands now."""
        levels = {f'loss_{name}': self.late(values) for name, values in self.raw.items()}
        return shares(levels) if levels and None not in levels.values() else {}

    # ---- validation

    def metric(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Epochs (iterations, where the log has no epochs) and values of a validation metric; COCO's -1 for "no object"
        and what is no number are left out."""
        pairs = [
            (number(line.get('epoch', line.get('step', i))), number(line[name]))
            for i, line in enumerate(self.run.val)
            if name in line
        ]
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair)) and pair[1] != -1]
        return tuple(np.array(pairs, float).reshape(-1, 2).T)

    def last(self, name: str) -> float | None:
        """A validation metric at the last validation that has it."""
        values = self.metric(name)[1]
        return float(values[-1]) if len(values) else None

    @cached_property
    def box_ap(self) -> float | None:
        return self.last('coco/bbox_mAP')

    @cached_property
    def mask_ap(self) -> float | None:
        return self.last('coco/segm_mAP')

    @cached_property
    def masks_as_good_as_boxes(self) -> bool:
        """COCO's reference models have a mask AP of 0.89 to 0.91 of their box AP (MMDetection's metafiles)."""
        return self.box_ap is not None and self.mask_ap is not None and self.mask_ap >= max(0.8 * self.box_ap, 0.1)

    # ---- settings and rates

    def setting(self, key: str) -> object:
        """Value of a dotted key of the config; None where it is not."""
        return self.run.config.get(key)

    @property
    def uses_adam(self) -> bool:
        """The optimizer is Adam or of its kin, to which the linear rule does not apply."""
        return 'Adam' in str(self.setting('optim_wrapper.optimizer.type'))

    @cached_property
    def schedulers(self) -> list[dict]:
        found = self.run.settings.get('param_scheduler')
        found = [found] if isinstance(found, dict) else found
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    @cached_property
    def custom_keys(self) -> dict[str, dict]:
        wrapper = self.run.settings.get('optim_wrapper')
        paramwise = wrapper.get('paramwise_cfg') if isinstance(wrapper, dict) else None
        keys = paramwise.get('custom_keys') if isinstance(paramwise, dict) else None
        keys = keys if isinstance(keys, dict) else {}
        return {key: value for key, value in keys.items() if isinstance(key, str) and isinstance(value, dict)}

    def key_of(self, part: str) -> str | None:
        """The custom key that decides on a part's rate: the longest that its name contains, as in MMEngine."""
        found = [key for key in self.custom_keys if key and key in PART_PATHS[part]]
        return max(found, key=len, default=None)

    def multiplier(self, part: str) -> float:
        """Rate of a part ÷ the base rate as planned: of the table of parameter groups or, without, of the custom keys."""
        for row in self.groups(part):
            if row.get('name') == part and isinstance(row.get('multiplier'), (int, float)):
                return number(row['multiplier'])
        value = self.custom_keys.get(self.key_of(part) or '', {}).get('lr_mult', 1)
        return number(value) if isinstance(value, (int, float)) else 1.0

    def groups(self, part: str) -> list[dict]:
        return [row for row in self.run.groups if row.get('part') == part]

    def new_tensors(self, part: str) -> int:
        """Tensors of a part that no checkpoint filled, as far as the table of parameter groups says it."""
        return sum(len(row['fresh']) for row in self.groups(part) if isinstance(row.get('fresh'), list))

    def rates(self, name: str) -> np.ndarray:
        """A rate at every log line, NaN where it has none: ``base_lr``, ``mask_head_lr``."""
        return np.array([number(line.get(name, math.nan)) for line in self.run.train])

    @cached_property
    def base_rates(self) -> np.ndarray:
        base = self.rates('base_lr')
        return base if np.isfinite(base).any() else self.rates('lr')
