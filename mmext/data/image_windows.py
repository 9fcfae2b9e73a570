"""Windows of an image file: of a TIFF only the parts that a window needs are read. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.errors import InputError

# what an image file is called
SUFFIXES = ('.tif', '.tiff', '.png', '.jpg', '.jpeg', '.bmp', '.webp', '.ppm', '.pgm')
TIFF_SUFFIXES = SUFFIXES[:2]
TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # little and big endian, and BigTIFF of both
_PLAIN, _JPEG = (1, 2), 7  # kinds of TIFF whose pixels are grey values or red, green, blue as they stand; JPEG's become so
_ORIENTATION = 274  # EXIF's tag, in a TIFF one of its own


@dataclass(frozen=True)
class ImageWindows:
    """An image whose windows can be read.

    ``size``: height and width in pixels. ``channels``: 1 for grey. ``dtype``: of the pixels, as in the file.
    ``bounded``: only what a window needs is read; otherwise the whole image is in memory.
    """

    path: Path
    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    bounded: bool
    _pixels: Callable[[int, int, int, int], np.ndarray]

    def read(self, window: Sequence[int]) -> np.ndarray:
        """The pixels in x1, y1, x2, y2, a copy: (h, w) of a grey image, else (h, w, channels), red first as in a TIFF.

        Raises:
            InputError: the window has no pixel or leaves the image; the file is damaged there.
        """
        x1, y1, x2, y2 = (int(place) for place in window)
        if not (0 <= x1 < x2 <= self.size[1] and 0 <= y1 < y2 <= self.size[0]):
            raise InputError(
                f'{self.path}: the window x1={x1}, y1={y1}, x2={x2}, y2={y2} is not within its '
                f'{self.size[1]}x{self.size[0]} pixels (width x height).'
            )
        try:
            return self._pixels(x1, y1, x2, y2)
        except MemoryError:
            raise
        except Exception as error:  # codecs raise whatever they raise on broken bytes
            raise InputError(
                f'{self.path}: damaged or changed between x={x1}, y={y1} and x={x2}, y={y2}: {error}. Copy it again.'
            ) from error


def open_windows(path: str | Path) -> ImageWindows:
    """An image file to be read by windows.

    Of a TIFF the tiles or strips under a window are read, so memory follows the window (and the strip: one that holds the
    whole image is read whole). Uncompressed, Deflate, LZMA and PackBits need nothing more; LZW, JPEG and others the package
    imagecodecs. Without it, for a palette or inverted grey, and for all other formats, OpenCV decodes the whole image once.

    Pixels keep their depth. EXIF's turn is obeyed, except in a TIFF: one that asks to be turned is refused, as its windows
    would have to be turned too. Of a TIFF with several pages the first counts.

    Raises:
        InputError: there is no such file, or no image in it that can be read.
    """
    path = Path(path)
    try:
        tiff = is_tiff(path)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}.') from None
    found = _open_tiff(path) if tiff else None
    return _open_whole(path) if found is None else found


def is_tiff(path: str | Path) -> bool:
    """Whether a file begins as a TIFF does.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open('rb') as file:
        return file.read(4) in TIFF


def _open_tiff(path: Path) -> ImageWindows | None:
    """None when a codec is missing, or the pixels are not what is shown."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            samples, depth, height, width, contiguous = page.shaped
            orientation = page.tags.valueof(_ORIENTATION, 1)
            if depth > 1 or not height * width:
                raise InputError(f'{path}: a TIFF page of shape {page.shape}; it must be one picture. Save it as one.')
            if orientation != 1:
                raise InputError(
                    f'{path}: the TIFF asks to be turned (orientation {orientation}), which readers do or leave. '
                    'Turn its pixels and save it again.'
                )
            if page.photometric not in _PLAIN and page.compression != _JPEG:
                return None  # a palette, inverted grey: OpenCV turns them into what they show
            dtype, mapped = page.dtype, page.is_memmappable
            if not mapped:
                first = next((i for i, count in enumerate(page.databytecounts) if count), None)
                if first is not None:
                    _decode(file, page, first)
    except InputError:
        raise
    except Exception as error:  # tifffile raises whatever a broken file makes of its parsing
        if 'imagecodecs' in str(error):
            return None
        raise InputError(f'{path}: not a TIFF that can be read: {error}. Save it again.') from error
    channels = samples * contiguous
    read = _mapped if mapped else _by_segments
    return ImageWindows(
        path, (height, width), channels, np.dtype(dtype), True, lambda *window: read(path, channels, *window)
    )


def _mapped(path: Path, channels: int, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    import tifffile

    # mapped anew each time: pages that were read stay in memory as long as their map
    pixels = tifffile.memmap(path, page=0, mode='r')
    if channels > 1 and pixels.shape[0] == channels and pixels.shape[-1] != channels:
        pixels = np.moveaxis(pixels, 0, -1)  # each colour by itself
    return np.array(pixels[y1:y2, x1:x2]).astype(pixels.dtype.newbyteorder('='), copy=False)


def _by_segments(path: Path, channels: int, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        found = np.zeros((y2 - y1, x2 - x1, channels), page.dtype)
        tiled = page.is_tiled
        rows, columns = (page.tilelength, page.tilewidth) if tiled else (page.rowsperstrip, page.imagewidth)
        across, down = -(-page.imagewidth // columns), -(-page.imagelength // rows)
        for plane in range(page.shaped[0]):
            for row in range(y1 // rows, -(-y2 // rows)):
                for column in range(x1 // columns, -(-x2 // columns)):
                    pixels = _decode(file, page, (plane * down + row) * across + column)
                    if pixels is None:
                        continue  # TIFF's way to save a part without content
                    top, left = row * rows, column * columns
                    ya, yb = max(y1, top), min(y2, top + pixels.shape[0])
                    xa, xb = max(x1, left), min(x2, left + pixels.shape[1])
                    target = slice(plane, plane + 1) if page.shaped[0] > 1 else slice(None)
                    found[ya - y1 : yb - y1, xa - x1 : xb - x1, target] = pixels[ya - top : yb - top, xa - left : xb - left]
    return found[..., 0] if channels == 1 else found


def _decode(file, page, index: int) -> np.ndarray | None:
    """One tile or strip, (rows, columns, samples); None for one without content."""
    count = page.databytecounts[index]
    if not count:
        return None
    file.filehandle.seek(page.dataoffsets[index])
    tables = {'jpegtables': page.jpegtables} if page.jpegtables is not None else {}
    return page.decode(file.filehandle.read(count), index, **tables)[0][0]


def _open_whole(path: Path) -> ImageWindows:
    import cv2

    try:
        # the depth of the file, and turned as EXIF says; alpha is left out
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:  # an empty file, or more pixels than OpenCV takes
        raise InputError(
            f'{path}: OpenCV cannot read it: {error.err or error}. Of a large image save a TIFF in tiles, uncompressed or '
            'with Deflate.'
        ) from None
    if pixels is None:
        raise InputError(
            f'{path}: not an image that OpenCV can read. Save it as PNG, or as a TIFF, uncompressed or with Deflate.'
        )
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return ImageWindows(
        path, pixels.shape[:2], channels, pixels.dtype, False, lambda x1, y1, x2, y2: pixels[y1:y2, x1:x2].copy()
    )
