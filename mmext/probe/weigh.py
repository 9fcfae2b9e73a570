"""What an experiment won, with its standard error, and the limits from which a gain is a finding."""

import math
from dataclasses import dataclass

import numpy as np

from mmext.analysis.rules import Limit

# gains in mean mask IoU; COCO's AP counts IoUs in steps of 0.05
LIMITS = {
    'worth': Limit(0.02, 'our choice: less is not seen in an AP of a few hundred objects'),
    'much': Limit(0.10, 'two steps of the IoUs that COCO averages AP over; healthy runs on made data had up to 0.09'),
    'apart': Limit(0.05, 'one step of the IoUs that COCO averages AP over; healthy runs on made data had up to 0.02'),
    'grid': Limit(0.05, 'one step of the IoUs that COCO averages AP over; healthy runs on made data had 0.02 or less'),
    'learnt': Limit(0.5, 'our choice: half of what the mask grid allows; healthy runs on made data had 0.63 or more'),
    'confused': Limit(0.5, 'our choice: most objects; healthy runs on made data had 0.01 to 0.05'),
    'mask_gradient': Limit(0.03, 'our choice; healthy runs on made data had 0.11 to 0.36, on droplets 0.17 to 0.20'),
    'update': Limit(0.03, 'our choice; healthy runs had 0.19 to 0.54, a mask head at a hundredth of its rate 0.014'),
    'iterations': Limit(20, 'our choice: a single step of a rate above 0 changes some bit; the first of a warm-up may not'),
    # of --overfit (mmext.probe.overfit); shares of the mask IoU that the grid allows
    'overfit': Limit(0.9, 'our choice: what the grid allows but for a tenth'),
    'overfit_poor': Limit(0.75, 'our choice; sound runs passed, masks of other objects or in flipped boxes came to 0.3'),
    'overfit_moved': Limit(0.01, 'sound heads moved by 0.02 to 0.05, one at a hundredth of its rate by 0.004'),
    'overfit_rate': Limit(0.2, 'as for mask-rate-low'),
    'overfit_iterations': Limit(60, 'our choice: sound runs had passed by then, or were well on their way'),
    # of the ground truth (mmext.probe.ground_truth): steepness of the image along an outline, as a share of its most
    'moved': Limit(2.0, 'our choice: two ways of writing an outline differ by one pixel'),
    'edge_moved': Limit(0.12, 'sound masks of made data and six droplet videos had up to 0.07, moved by 2 px 0.16 or more'),
    'edge_grown': Limit(0.30, 'sound masks of made data and six droplet videos had up to 0.22, at 75 % of their area 0.47'),
    'edge_apart': Limit(0.15, 'our choice: the other part wins less by so much'),
    'edge_told': Limit(0.05, 'our choice: that there is a difference, the predictions have shown'),
    'box_moved': Limit(1.5, 'our choice: boxes rounded in one direction or counted from 1 are off by one pixel'),
    'box_inset': Limit(1.0, 'our choice: rounding moves a side by half a pixel'),
    'box_sides': Limit(1 / 0.9, 'as in mmext check: masks with 0.9 of the sides of their boxes'),
    'others': Limit(0.05, 'our choice; of 1829 masks of made data and droplets none'),
    'others_many': Limit(0.20, 'our choice: every fifth'),
    'cases': Limit(5, 'our choice: fewer are slips of one image'),
    'twins': Limit(0.05, 'our choice; of 1829 masks of made data and droplets none'),
    'overlap': Limit(0.20, 'our choice; train and val of made data and of droplets were 0.07 apart'),
    'overlap_errors': Limit(3.0, 'standard errors: 99.7 %, as other images have other overlaps'),
    'views': Limit(10, 'our choice: a share of fewer says nothing'),
    'views_filled': Limit(0.10, 'our choice: nine of ten images teach nothing'),
    'views_half': Limit(0.50, 'our choice: half of the training sees background alone'),
    'errors': Limit(2.0, 'standard errors: 95 %'),
    'objects': Limit(20, 'our choice: a mean of fewer says nothing'),
}


def limit(name: str) -> float:
    return LIMITS[name].value


@dataclass(frozen=True)
class Gain:
    """Mean before and after over N objects, the difference ``value`` and its standard error."""

    before: float
    after: float
    error: float
    objects: int

    @property
    def value(self) -> float:
        return self.after - self.before

    def surely(self, least: float) -> bool:
        """Whether it is at least so much, and above 0 beyond chance, with enough objects."""
        enough = self.objects >= limit('objects')
        return enough and self.value >= least and self.value > limit('errors') * self.error

    def words(self) -> str:
        return f'{self.before:.3f} to {self.after:.3f} (+{self.value:.3f}, standard error {self.error:.3f})'


def standard_error(values: np.ndarray, images: np.ndarray) -> float:
    """Of a mean over objects: those of one image are alike, so whole images are what was drawn.

    Args:
        values: (N,).
        images: (N,) the image of each.
    """
    groups = np.unique(images, return_inverse=True)[1]
    number = int(groups.max()) + 1 if len(groups) else 0
    if number < 2:
        return math.inf
    sums = np.bincount(groups, values - values.mean())
    return float(np.sqrt((sums**2).sum() * number / (number - 1)) / len(values))


def paired(before: np.ndarray, after: np.ndarray, images: np.ndarray) -> Gain:
    """What the same objects (N,) win."""
    return Gain(float(before.mean()), float(after.mean()), standard_error(after - before, images), len(before))
