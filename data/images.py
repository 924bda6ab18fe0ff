"""Images and masks from files, decoded by Pillow in one documented way.

What becomes of each kind of file (`decode_image` names every conversion it made):

| file | becomes |
|---|---|
| 8-bit gray, RGB | itself |
| 1-bit | gray, 0 and 255 |
| 16-bit gray (PNG, TIFF; 32-bit integers in 0..65535) | gray, value / 257 rounded: a fixed scale, never min-max |
| 16-bit colour | the high byte of each channel (what Pillow decodes; within 1 of value / 257) |
| float TIFF | gray, value * 255 rounded; an error outside [0, 1] |
| transparency (RGBA, gray + alpha, palette + alpha) | composited over black |
| palette, CMYK, YCbCr, LAB, HSV | RGB |
| EXIF orientation | applied, to masks too |
| several pages or frames | the first one |
| gray asked as RGB, RGB asked as gray | the channel repeated; ITU-R 601 luma |
| resized | bilinear with antialiasing; masks and regions of interest nearest |

The header is read first: a file that claims more than `MAX_PIXELS` is refused before a pixel is decoded.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 80_000_000  # just below the size from which Pillow itself warns
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_FORMAT_OF = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
EXTENSIONS = tuple(_FORMAT_OF)
_ORIENTATION = 0x0112  # EXIF tag
_PLANAR, _BITS = 284, 258  # TIFF tags: planar configuration, bits of a sample


class DataError(ValueError):
    """A file or folder that cannot be used; the message says which one and why."""

    def __init__(self, path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Decoded:
    """An upright 8-bit image (`image.mode` is "L" or "RGB") and what was done or noticed on the way."""

    image: Image.Image
    conversions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_bytes(path) -> bytes:
    """The file's bytes.

    Raises:
        DataError: missing, unreadable or empty.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(path, "no such file") from None
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})") from error
    if not data:
        raise DataError(path, "empty file (0 bytes)")
    return data


def decode_image(path, data: bytes | None = None) -> Decoded:
    """Decode one file as the table above says.

    Args:
        path: the file, named in every error.
        data: its bytes, when already read.

    Raises:
        DataError: missing, empty, not an image, too large, truncated or corrupt.
    """
    data = read_bytes(path) if data is None else data
    return _guarded(path, lambda: _decode(path, data))


def read_image(
    path, channels: int, size: int | tuple[int, int] | None = None, crop_rows: int | None = None
) -> np.ndarray:
    """One image as an array.

    Args:
        path: the file.
        channels: 1 (gray) or 3 (RGB).
        size: None (as it is), one number for a square, or (height, width).
        crop_rows: keep at most this many rows from the top, before resizing.

    Returns:
        uint8 `[H, W, channels]`.

    Raises:
        DataError: see `decode_image`.
    """
    return to_array(decode_image(path).image, channels, size, crop_rows)


def image_size(path) -> tuple[int, int]:
    """Height and width of an image as `read_image` gives it, without decoding its pixels.

    Raises:
        DataError: missing, empty, not an image, or a PNG whose checksums are wrong.
    """

    def header():
        image = _open(path, read_bytes(path))
        turned = _orientation(image) in (5, 6, 7, 8)
        return image.size if turned else image.size[::-1]

    return _guarded(path, header)


def to_array(image: Image.Image, channels: int, size=None, crop_rows: int | None = None) -> np.ndarray:
    """uint8 `[H, W, channels]` of a decoded image; arguments as in `read_image`.

    Raises:
        ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    image = image.convert("L" if channels == 1 else "RGB")
    image = _resized(_cropped(image, crop_rows), size, Image.Resampling.BILINEAR)
    pixels = np.array(image, np.uint8)
    return pixels[:, :, None] if channels == 1 else pixels


def read_mask(
    path, size: int | tuple[int, int] | None = None, crop_rows: int | None = None, data: bytes | None = None
) -> np.ndarray:
    """A ground-truth mask or region of interest: any colour channel above zero counts, above 127 in a (lossy) JPEG.

    Args:
        path: the file.
        size: as in `read_image`; nearest neighbour.
        crop_rows: as in `read_image`.
        data: the file's bytes, when already read.

    Returns:
        bool `[H, W]`.

    Raises:
        DataError: see `decode_image`.
    """
    data = read_bytes(path) if data is None else data
    mask = _guarded(path, lambda: _decode_mask(path, data))
    image = _cropped(Image.fromarray(mask.astype(np.uint8) * 255), crop_rows)
    return np.array(_resized(image, size, Image.Resampling.NEAREST)) > 0


def _guarded(path, decode):
    """Run a decoder, turning whatever it raises into a `DataError` that names the file."""
    try:
        return decode()
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(path, "not an image (PNG, JPEG, BMP, TIFF or WebP)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(path, f"too large: more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's decoders raise almost any type on damaged bytes
        reason = "truncated" if "truncat" in str(error).lower() else "corrupt"
        raise DataError(path, f"{reason} ({error})") from error


def _open(path, data: bytes) -> Image.Image:
    """The image behind the header, its pixels not decoded yet, its size accepted."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(path, f"too large: {width}x{height} pixels, the limit is {MAX_PIXELS:,}")
    if image.format == "PNG":  # only a second pass sees wrong checksums and a missing end
        Image.open(io.BytesIO(data), formats=FORMATS).verify()
    return image


def _orientation(image: Image.Image) -> int:
    """How its EXIF data say that an image is turned; 1, not at all, where they are damaged beside sound pixels."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The loaded image turned as its EXIF orientation says, and whether that changed it."""
    orientation = _orientation(image)
    image.load()
    turned = orientation in range(2, 9)
    return (ImageOps.exif_transpose(image) if turned else image), turned


def _decode(path, data: bytes) -> Decoded:
    image = _open(path, data)
    conversions, warnings = [], []
    kind, frames = image.format, getattr(image, "n_frames", 1)
    if kind == "TIFF":
        conversions.append("TIFF")
    if frames > 1:
        conversions.append(f"{frames} pages or frames: the first one is read")
    if kind == "TIFF" and image.tag_v2.get(_PLANAR, 1) == 2 and max(image.tag_v2.get(_BITS, (1,))) > 8:
        raise DataError(path, "16-bit colour in separate planes, which would be read wrongly: save it pixel by pixel")
    if ";16" in str(image.tile) and not image.mode.startswith("I"):
        conversions.append("16-bit colour: high byte kept")
    expected = _FORMAT_OF.get(Path(path).suffix.lower())
    if expected and expected != ("JPEG" if kind == "MPO" else kind):
        warnings.append(f"the contents are {kind}, the name says {expected}")
    image, turned = _upright(image)
    if turned:
        conversions.append("EXIF orientation applied")
    return Decoded(_eight_bit(path, image, conversions, warnings), tuple(conversions), tuple(warnings))


def _eight_bit(path, image: Image.Image, conversions: list[str], warnings: list[str]) -> Image.Image:
    """Mode "L" or "RGB" of any mode Pillow decodes; appends what it did."""
    mode = image.mode
    if mode in ("L", "RGB"):
        return image
    if mode == "F" or mode.startswith("I"):
        return Image.fromarray(_scaled(path, np.asarray(image), conversions, warnings))
    if mode == "1":
        conversions.append("1-bit: 0 and 255")
        return image.convert("L")
    if image.has_transparency_data:
        conversions.append("transparency: composited over black")
        return _over_black(image)
    conversions.append("palette: converted to RGB" if mode in ("P", "PA") else f"{mode}: converted to RGB")
    return image.convert("RGB")


def _scaled(path, values: np.ndarray, conversions: list[str], warnings: list[str]) -> np.ndarray:
    """uint8 of 16-bit integers (/ 257) or of floats in [0, 1] (* 255)."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise DataError(path, f"float pixels outside [0, 1] ({low:g} to {high:g})")
        conversions.append("float: multiplied by 255")
        return np.floor(values * 255 + 0.5).astype(np.uint8)
    if low < 0 or high > 65535:
        raise DataError(path, f"integer pixels outside 0..65535 ({low} to {high})")
    conversions.append("16-bit: divided by 257")
    if high <= 4095:
        warnings.append("16-bit values stay below 4096: 12-bit data reads almost black, rescale it first")
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)


def _over_black(image: Image.Image) -> Image.Image:
    """Any mode with transparency, composited over black; gray stays gray."""
    gray = image.mode in ("LA", "La", "L")
    image = image.convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return opaque.convert("L" if gray else "RGB")


def _decode_mask(path, data: bytes) -> np.ndarray:
    image = _open(path, data)
    lossy = image.format in ("JPEG", "MPO")
    image, _ = _upright(image)
    if image.has_transparency_data:
        image = _over_black(image)
    elif image.mode not in ("1", "L", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    values = np.asarray(image)
    values = values.max(axis=2) if values.ndim == 3 else values
    return values > 127 if lossy else values != 0


def _cropped(image: Image.Image, rows: int | None) -> Image.Image:
    return image.crop((0, 0, image.width, rows)) if rows and image.height > rows else image


def _resized(image: Image.Image, size, method) -> Image.Image:
    if size is None:
        return image
    height, width = (size, size) if isinstance(size, int) else size
    return image if image.size == (width, height) else image.resize((width, height), method)
