"""Ground truth and predictions of an image as one picture. No torch."""

import numpy as np

from mmext.analysis.mask_match import Objects
from mmext.analysis.mask_window import draw, window_of

# Okabe and Ito's, told apart by the colour-blind, one a class
COLOURS = ((0, 114, 178), (213, 94, 0), (204, 121, 167), (0, 158, 115), (230, 159, 0), (86, 180, 233), (240, 228, 66))
_FILLED = 0.35  # how much of a prediction's colour covers the image
_SUB_PIXEL_BITS = 4  # cv2 takes corners in 1/16 px


def outlines(rle: dict) -> list[np.ndarray]:
    """The outer outlines of a mask, drawn from its RLE alone: of each part the corners (n, 2) as x, y in pixels."""
    import cv2

    window = window_of(rle)
    mask = draw(rle, window)
    if not mask.size:
        return []
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [part.reshape(-1, 2) + np.array(window[:2]) for part in found]


def side_by_side(picture: np.ndarray, truth: Objects, prediction: Objects, score: float, longest: int) -> np.ndarray:
    """Ground truth on the left; predictions on the right, filled, with the ground truth as a white line.

    Args:
        picture: (H, W, 3) uint8, RGB.
        truth, prediction: in pixels of the picture.
        score: predictions from here on are shown.
        longest: the picture is made smaller until its longer side has so many pixels.

    Returns:
        (h, 2 w, 3) uint8, RGB.
    """
    import cv2

    scale = min(1.0, longest / max(picture.shape[:2]))
    size = max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1)
    left = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture.copy()
    right = left.copy()
    own = [(_scaled(rle, scale), _colour(label)) for rle, label in zip(truth.rles, truth.labels, strict=True)]
    scores = np.ones(len(prediction.labels)) if prediction.scores is None else prediction.scores
    found = [
        (_scaled(prediction.rles[i], scale), _colour(prediction.labels[i]))
        for i in np.argsort(scores, kind='stable')
        if scores[i] >= score
    ]
    filled = right.copy()
    for parts, colour in found:
        cv2.fillPoly(filled, parts, colour, cv2.LINE_AA, _SUB_PIXEL_BITS)
    right = cv2.addWeighted(filled, _FILLED, right, 1 - _FILLED, 0)
    for parts, colour in own:
        cv2.polylines(left, parts, True, colour, 1, cv2.LINE_AA, _SUB_PIXEL_BITS)
        cv2.polylines(right, parts, True, (255, 255, 255), 1, cv2.LINE_AA, _SUB_PIXEL_BITS)
    for parts, colour in found:
        cv2.polylines(right, parts, True, colour, 1, cv2.LINE_AA, _SUB_PIXEL_BITS)
    return np.concatenate([left, right], axis=1)


def _scaled(rle: dict, scale: float) -> list[np.ndarray]:
    """Outlines of a mask on a smaller picture, in cv2's fractions of a pixel."""
    return [np.round(((part + 0.5) * scale - 0.5) * 2**_SUB_PIXEL_BITS).astype(np.int32) for part in outlines(rle)]


def _colour(label: int) -> tuple[int, int, int]:
    return COLOURS[int(label) % len(COLOURS)]
