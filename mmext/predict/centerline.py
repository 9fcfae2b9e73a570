"""Length and mean width of a thin object, along its centre line. No torch."""

import math

import numpy as np

# times that the line is fitted, the pixels each time dealt out along it anew; a third is no better on made fibers
PASSES = 2
# knots are this many widths apart: the line may turn within three widths, and pixels enough stand between two of them
KNOT_SPACING = 2
# of the differences of the spline's coefficients, against squared pixels (Eilers and Marx 1996)
SMOOTHNESS = 0.1
# pixels across an object that are enough; a wider one is thinned out, so that the time does not grow with its area
ACROSS = 16
# where the end is looked for, in widths beside the centre line: a mean of three rays is steadier than one, and it takes less
# than 1.5 % of the half width from a round end
RAYS = (-0.1, 0, 0.1)
# what stands farther beside the line than this, in radii of the largest circle inside the object, and a pixel, is a branch
BRANCH = 1.25
# pixels between two points of the line
STEP = 0.5


def length_and_width(mask: np.ndarray) -> tuple[float, float]:
    """Length along the centre line, from edge to edge, and mean width across it, in pixels; NaN of an empty mask.

    1. The largest piece (8-connected; of equal ones the first from the top) counts. A hole in it counts only where it
       is wider than the object: a smaller one is filled.
    2. The longest of the shortest paths through the skeleton (Lee et al. 1994; scikit-image's Zhang-Suen shrinks a
       diagonal of even thickness to one pixel) gives the run of the line. The sum of its steps is no length: local
       steps are off by a share that depends on the direction, however fine the pixels (Coeurjolly and Klette 2004,
       doi:10.1109/TPAMI.2004.1262194).
    3. So the line is a penalised cubic spline (Eilers and Marx 1996, doi:10.1214/ss/1038425655) through *all* pixels,
       each at its nearest place along the line: a principal curve (Hastie and Stuetzle 1989,
       doi:10.1080/01621459.1989.10478797). Where a line of width w bends with curvature k, the mean of a
       cross-section's pixels lies k w² / 12 outside the centre line, as the centroid of a ring's sector does; that is
       taken back.
    4. Skeletons end about half a width early. The spline is followed to half a width before its end, and from there to
       where the mask ends (0.5 between pixels): the mean of three rays. A round end counts by its tip, a flat one by
       its edge.
    5. Width is the area that lies beside the line without its ends, over the length of that part. Branches count for
       neither: pixels farther from the line than the largest circle inside the object reaches.

    A closed loop without loose ends is followed once round. A compact object, its path shorter than it is wide, has no
    centre line: its length is its extent along the axis of its second moments. Of both, width is area over length.

    Args:
        mask: (H, W) bool, or 0 and 1, the window of one object; what is outside counts as 0.
    """
    mask = np.asarray(mask, bool)
    if not mask.any():
        return math.nan, math.nan
    mask, reach = _solid(_largest_piece(np.pad(mask, 1)))
    stride = max(1, int(2 * reach / ACROSS))
    blocks, pixels, weights = _blocks(mask, stride)
    path, closed = skeleton_path(blocks)
    path = path * stride
    area = float(np.count_nonzero(mask))
    steps = float(arc_length(path)[-1])
    # a band of width w has the area w * (w + the part that the skeleton covers)
    width = (math.sqrt(steps**2 + 4 * area) - steps) / 2
    if closed:
        line = _fitted(pixels, weights, path, width, reach, closed)
        length = float(arc_length(line)[-1])
        return length, area / length
    if steps < width or len(path) < 5:
        length = _extent(mask)
        return length, area / length
    line = _fitted(pixels, weights, path, width, reach, closed)
    spare = min(int(width / 2 / STEP), len(line) // 3)
    middle = line[spare : len(line) - spare]
    ends = [_to_the_edge(mask, part, width) for part in (line[: spare + 1][::-1], line[len(line) - spare - 1 :])]
    (along, aside), whole = _places(middle, pixels), float(arc_length(middle)[-1])
    # a pixel on the cut counts by its share
    reaches = np.minimum(along + stride / 2, whole) - np.maximum(along - stride / 2, 0)
    inside = (weights * reaches.clip(0, stride))[aside <= BRANCH * reach + 1].sum() / stride
    return whole + sum(ends), float(inside / whole)


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    pieces, number = ndimage.label(mask, np.ones((3, 3)))
    if number == 1:
        return mask
    return pieces == 1 + np.bincount(pieces[mask])[1:].argmax()


def _solid(mask: np.ndarray) -> tuple[np.ndarray, float]:
    """The piece without the holes that are no wider than it is, and the radius of the largest circle in it."""
    import cv2
    from scipy import ndimage

    reach = _depth(cv2, mask).max()
    outside, number = ndimage.label(~mask)
    if number > 1:
        depth = ndimage.maximum(_depth(cv2, ~mask), outside, np.arange(number + 1))
        small = depth <= reach
        small[[0, outside[0, 0]]] = False
        mask = mask | small[outside]
    return mask, float(reach)


def _depth(cv2, mask: np.ndarray) -> np.ndarray:
    """Distance of each of its pixels to the nearest one outside."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _blocks(mask: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of ``stride`` by ``stride`` pixels that hold any, so that what is thin stays connected: the mask of the blocks,
    (N, 2) x, y of the mean of their pixels' centres, and (N,) how many there are."""
    places = np.argwhere(mask)
    shape = -(-np.array(mask.shape) // stride)
    block = np.ravel_multi_index(tuple((places // stride).T), shape)
    number = np.bincount(block, minlength=shape.prod())
    there = np.flatnonzero(number)
    means = [np.bincount(block, places[:, axis])[there] / number[there] + 0.5 for axis in (1, 0)]
    return (number > 0).reshape(shape), np.stack(means, 1), number[there].astype(float)


def skeleton_path(mask: np.ndarray) -> tuple[np.ndarray, bool]:
    """(N, 2) x, y along the skeleton, and whether it is a closed loop: no pixel of the skeleton is an end."""
    from skimage.morphology import skeletonize

    places = np.argwhere(skeletonize(np.pad(mask, 1), method='lee')) - 1
    graph = _graph(places)
    if np.diff(graph.indptr).min() > 1:
        # cut open at one place: the way from one side of the cut to the other leads all round
        opened = places[np.abs(places - places[0]).max(1) > 1]
        path = opened[_longest(_graph(opened))] if len(opened) else opened
        if len(path) > 4 and np.abs(path[0] - path[-1]).max() <= 4:
            return path[:, ::-1] + 0.5, True
    path = places[_longest(graph)]
    return path[:, ::-1] + 0.5, False


def _graph(places: np.ndarray):
    """Steps between neighbouring pixels, of length 1 and √2: sparse (N, N), both ways."""
    from scipy.sparse import csr_array

    number = np.full(places.max(0) + 3, -1)
    number[tuple((places + 1).T)] = np.arange(len(places))
    start, stop = [], []
    for step in ((0, 1), (1, -1), (1, 0), (1, 1)):
        there = number[tuple((places + 1 + step).T)]
        start.append(np.flatnonzero(there >= 0))
        stop.append(there[start[-1]])
    start, stop = np.concatenate(start), np.concatenate(stop)
    lengths = np.linalg.norm(places[start] - places[stop], axis=1)
    return csr_array(
        (np.tile(lengths, 2), (np.concatenate((start, stop)), np.concatenate((stop, start)))), shape=(len(places),) * 2
    )


def _longest(graph) -> list[int]:
    """Nodes of the path between two far ends, the node farthest from any and the one farthest from that: exact on a tree."""
    from scipy.sparse.csgraph import dijkstra

    def farthest(start: int) -> tuple[int, np.ndarray]:
        distances, previous = dijkstra(graph, indices=start, return_predecessors=True)
        return int(np.where(np.isfinite(distances), distances, -1).argmax()), previous

    first, _ = farthest(0)
    last, previous = farthest(first)
    path = [last]
    while path[-1] != first:
        path.append(int(previous[path[-1]]))
    return path


def _fitted(
    pixels: np.ndarray, weights: np.ndarray, path: np.ndarray, width: float, reach: float, closed: bool
) -> np.ndarray:
    """(M, 2) x, y of the centre line, ``STEP`` apart, from the first to the last of the pixels along it.

    What is farther from the line than ``reach`` and some, or from its ends than twice that, belongs to a branch.
    """
    from scipy.signal import savgol_filter

    # near its ends a skeleton turns into the corners
    step = arc_length(path)[-1] / (len(path) - 1)
    spare = 0 if closed else min(round(width / 2 / step), (len(path) - 3) // 2)
    line = path[spare : len(path) - spare]
    window = min(int(3 * width / step), len(line) - 1) // 2 * 2 + 1
    if window > 3:
        line = savgol_filter(line, window, 2, axis=0, mode='wrap' if closed else 'interp')
    for _ in range(PASSES):
        if closed:
            line = np.concatenate((line, line[:1]))
        line = _resampled(line)
        (along, aside), whole = _places(line, pixels), float(arc_length(line)[-1])
        near = (aside <= BRANCH * reach + 1) & (np.abs(along - whole / 2) <= whole / 2 + 2 * reach + 2)
        points, counts, along = pixels[near], weights[near], along[near]
        low, high = first, last = along.min() - 0.5, along.max() + 0.5
        if closed:
            # the loop's other end stands before its beginning, and its beginning after the end
            first, last = 0, whole
            low, high = -min(4 * width, whole / 2), whole + min(4 * width, whole / 2)
            along = np.concatenate((along - whole, along, along + whole))
            inside = (along > low) & (along < high)
            points, counts, along = np.tile(points, (3, 1))[inside], np.tile(counts, 3)[inside], along[inside]
        spline = _spline(along, points, counts, low, high, KNOT_SPACING * width)
        run = np.linspace(first, last, max(int((last - first) / STEP), 3) + 1)
        line = spline(run) + width**2 / 12 * spline(run, 2)
    return line


def _spline(places: np.ndarray, points: np.ndarray, weights: np.ndarray, low: float, high: float, spacing: float):
    """The smooth curve through ``points`` (N, 2) at ``places`` (N,) along it, defined from ``low`` to ``high``."""
    from scipy.interpolate import BSpline
    from scipy.sparse import diags_array, eye_array
    from scipy.sparse.linalg import spsolve

    knots = np.linspace(low, high, max(round((high - low) / spacing), 1) + 1)
    knots = np.concatenate(([low] * 3, knots, [high] * 3))
    basis = BSpline.design_matrix(places, knots, 3)
    number = basis.shape[1]
    rough = diags_array([-1.0, 3.0, -3.0, 1.0], offsets=[0, 1, 2, 3], shape=(number - 3, number))
    # the last term is nothing beside a pixel; it keeps the system solvable where a stretch of the line has none
    weighted = basis.T @ diags_array(weights)
    system = weighted @ basis + SMOOTHNESS * (rough.T @ rough) + 1e-9 * eye_array(number)
    return BSpline(knots, spsolve(system.tocsc(), weighted @ points), 3)


def _places(line: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) how far along the line each pixel stands, beyond its ends below 0 or above its length; (N,) how far beside it."""
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(line).query(pixels)
    ahead = np.gradient(line, axis=0)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
    ahead, apart = ahead[nearest], pixels - line[nearest]
    return arc_length(line)[nearest] + (apart * ahead).sum(1), np.abs(apart[:, 0] * ahead[:, 1] - apart[:, 1] * ahead[:, 0])


def arc_length(line: np.ndarray) -> np.ndarray:
    """(N,) length of the line up to each of its points."""
    return np.concatenate(([0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()))


def _resampled(line: np.ndarray) -> np.ndarray:
    """The same line with points ``STEP`` apart."""
    arc = arc_length(line)
    places = np.linspace(0, arc[-1], max(int(arc[-1] / STEP), 3) + 1)
    return np.stack([np.interp(places, arc, line[:, axis]) for axis in (0, 1)], 1)


def _to_the_edge(mask: np.ndarray, line: np.ndarray, width: float) -> float:
    """How far the mask goes on from the first point of ``line``, along it and then straight on."""
    from scipy import ndimage

    line = _resampled(line)
    ahead = line[-1] - line[-2]
    ahead /= max(np.linalg.norm(ahead), 1e-9)
    step = arc_length(line)[-1] / (len(line) - 1)
    beyond = line[-1] + ahead * step * np.arange(1, int(3 * width / STEP) + 9)[:, None]
    line = np.concatenate((line, beyond))
    aside = np.gradient(line, axis=0)[:, ::-1] * (-1, 1)
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-9)
    ways = []
    for ray in RAYS:
        x, y = (line + ray * width * aside).T - 0.5
        inside = ndimage.map_coordinates(mask.astype(np.float32), (y, x), order=1)
        out = int((inside < 0.5).argmax()) if (inside < 0.5).any() else len(inside) - 1
        # between the last point inside and the first outside
        share = (inside[out - 1] - 0.5) / (inside[out - 1] - inside[out]) if out and inside[out] < 0.5 else 0
        ways.append(max(out - 1 + share, 0) * step)
    return float(np.mean(ways))


def _extent(mask: np.ndarray) -> float:
    """Along the axis of the second moments, from the first pixel's edge to the last one's."""
    pixels = np.argwhere(mask)[:, ::-1]
    _, axes = np.linalg.eigh(np.cov((pixels - pixels.mean(0)).T, bias=True))
    along = pixels @ axes[:, 1]
    return float(np.ptp(along) + np.abs(axes[:, 1]).max())
