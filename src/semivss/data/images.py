"""Still images: a file in, an RGB frame or the raw values of an index mask out, or one line that says what is wrong with the file."""

import struct
import sys
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, UnidentifiedImageError

from semivss.errors import DefectError

MAX_PIXELS = 100_000_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_REMAKE = "copy the file again from its source"
_INDEX = "write class ids as an 8-bit grey or palette PNG"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6  # colour types in a PNG's header


def read_frame(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as RGB. Grey, palette, CMYK and 16-bit pictures are converted, transparency is dropped.

    The EXIF orientation is not applied: masks of a data set are drawn on the stored pixels.

    Raises:
        DefectError: kind missing_file, zero_byte, truncated, corrupt_png, wrong_type or too_large.
    """
    path = Path(path)
    data = _bytes(path)
    if (frame := _plain_jpeg(data)) is not None:
        return frame
    if data.startswith(_SIGNATURE):
        _check_png(data, path)
    image = _open(data, path)
    if data.startswith(_JPEG) and not _jpeg_ends(data):  # a tail of zeros, or none: decoders fill in grey without a word
        raise DefectError(path, "truncated", "the JPEG is cut short (no end marker)", _REMAKE, "skip")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        values = np.asarray(image).astype(np.uint32)
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: Path) -> UInt8[np.ndarray, "H W"]:
    """The values of an index PNG as stored: grey levels of a grey picture, palette positions of a palette picture.

    Transparency that is the same everywhere says nothing and is dropped.

    The checksum of every chunk is compared, which Pillow does not do for the picture data: a flipped bit is an error, not another class.

    Raises:
        DefectError: kind missing_file, zero_byte, truncated, corrupt_png, wrong_type, too_large, mask_16bit, mask_rgb or mask_alpha.
    """
    path = Path(path)
    data = _png(path)
    depth, kind = data[24], data[25]  # bit depth and colour type of the header chunk
    if kind not in (_GREY, _PALETTE, _GREY_ALPHA):
        remedy = f"{_INDEX}, or bring colour masks in through `semivss data import`"
        raise DefectError(path, "mask_rgb", "the mask is a colour picture, not class ids", remedy)
    image = _open(data, path)
    if kind == _GREY_ALPHA:
        return _without_alpha(image, depth, path)
    if depth == 16:
        return _narrow(np.asarray(image), path)
    if kind == _GREY and depth < 8:  # Pillow spreads 1, 2 and 4-bit grey levels over 0..255
        return np.asarray(image.convert("L"), np.uint8) // np.uint8(255 // (2**depth - 1))
    return np.asarray(image, np.uint8)


def read_color_mask(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The colours of a PNG that says classes or segments by colour; checked as `read_mask` checks.

    Raises:
        DefectError: kind missing_file, zero_byte, truncated, corrupt_png, wrong_type, too_large or mask_grey (no colours).
    """
    path = Path(path)
    data = _png(path)
    if data[25] not in (_RGB, _PALETTE, _RGBA):
        raise DefectError(
            path, "mask_grey", "the mask is a grey picture, not a colour-coded one", "give the colour-coded masks of this data set"
        )
    image = _open(data, path)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def read_codes(path: Path) -> UInt16[np.ndarray, "H W"]:
    """The values of a 16-bit grey PNG; checked as `read_mask` checks.

    Raises:
        DefectError: kind missing_file, zero_byte, truncated, corrupt_png, wrong_type, too_large or not_16bit.
    """
    path = Path(path)
    data = _png(path)
    if (data[24], data[25]) != (16, _GREY):
        raise DefectError(path, "not_16bit", "not a 16-bit grey picture, as entropy maps are", _REMAKE, "skip")
    return np.asarray(_open(data, path)).astype(np.uint16)


def _png(path: Path) -> bytes:
    """The content of a PNG whose checksums are right."""
    data = _bytes(path)
    if not data.startswith(_SIGNATURE):
        raise DefectError(path, *_not_a_png(data))
    _check_png(data, path)
    return data


def _without_alpha(image: Image.Image, depth: int, path: Path) -> UInt8[np.ndarray, "H W"]:
    if depth == 16:  # Pillow keeps the upper 8 bits only
        raise DefectError(path, "mask_16bit", "the mask is 16-bit with transparency", "write ids below 256 as an 8-bit PNG")
    values = np.asarray(image)
    if np.ptp(values[..., 1]):
        raise DefectError(path, "mask_alpha", "the mask is transparent in parts, which stands for no class", f"{_INDEX} without alpha")
    return np.ascontiguousarray(values[..., 0])


def _narrow(values: np.ndarray, path: Path) -> UInt8[np.ndarray, "H W"]:
    highest = int(values.max())
    if highest > 255:
        raise DefectError(
            path, "mask_16bit", f"the mask is 16-bit and holds {highest}; ids end at 255", "write ids below 256 as an 8-bit PNG"
        )
    return values.astype(np.uint8)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DefectError(path, "missing_file", "the file is gone", "restore it", "skip") from error
    except OSError as error:
        raise DefectError(path, "unreadable", f"cannot be read ({error.strerror})", "check its permissions", "skip") from error
    if not data:
        raise DefectError(path, "zero_byte", "the file is empty (0 bytes)", _REMAKE, "skip")
    return data


def _open(data: bytes, path: Path) -> Image.Image:
    """The decoded picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below, and it is an error
            image = Image.open(BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise DefectError(
                    path, "too_large", f"{image.width}x{image.height} pixels, more than {MAX_PIXELS // 10**6} million", "make it smaller"
                )
            image.load()
    except DefectError:
        raise
    except Image.DecompressionBombError as error:
        raise DefectError(path, "too_large", f"more than {MAX_PIXELS // 10**6} million pixels", "make it smaller") from error
    except UnidentifiedImageError as error:
        kind = ("truncated", "the picture ends in its header") if _pictures_start(data) else ("wrong_type", "no picture in a known format")
        raise DefectError(path, *kind, _REMAKE, "skip") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise DefectError(path, "truncated", f"the picture is damaged or cut short ({str(error)[:80]})", _REMAKE, "skip") from error
    return image


def _plain_jpeg(data: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """A whole JPEG in colour, by torchvision: the numbers that Pillow gives, without its two copies, a fifth of the time.

    None for anything else, which Pillow reads or refuses. torchvision takes a second to import, so it has to be there already: timm brings
    it into every training of its models.
    """
    torchvision = sys.modules.get("torchvision")
    if torchvision is None or not data.startswith(_JPEG) or not _jpeg_ends(data):
        return None
    try:
        image = Image.open(BytesIO(data))  # the header alone
        if image.mode != "RGB" or image.width * image.height > MAX_PIXELS:
            return None
        encoded = sys.modules["torch"].frombuffer(bytearray(data), dtype=sys.modules["torch"].uint8)
        decoded: np.ndarray = torchvision.io.decode_jpeg(encoded).permute(1, 2, 0).numpy()
    except (AttributeError, RuntimeError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # half imported, or no such JPEG
        return None
    return decoded


def _pictures_start(data: bytes) -> bool:
    return data.startswith((_JPEG, _SIGNATURE[:4]))


def _not_a_png(data: bytes) -> tuple[str, str, str]:
    if _SIGNATURE.startswith(data[:8]):
        return "truncated", "the file ends in its header", _REMAKE
    if data.startswith(_JPEG):
        return "wrong_type", "the mask is a JPEG, which changes ids when it compresses", "export the mask again as PNG"
    return "wrong_type", "not a PNG", _INDEX


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end marker follows the start of the scan. Segments before it (thumbnails) are stepped over."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.rfind(b"\xff\xd9", position) >= 0  # from the end, where it is in a whole file


def _check_png(data: bytes, path: Path) -> None:
    """Walk the chunks and compare their checksums. Raises DefectError kind truncated or corrupt_png."""
    view, position = memoryview(data), len(_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise DefectError(path, "truncated", "the PNG is cut short", _REMAKE, "skip")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise DefectError(path, "truncated", "the PNG is cut short", _REMAKE, "skip")
        if position == len(_SIGNATURE) and (name != b"IHDR" or length != 13):
            raise DefectError(path, "corrupt_png", "the PNG does not begin with its header", _REMAKE, "skip")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise DefectError(
                path, "corrupt_png", f"checksum of PNG chunk {name.decode('latin-1')!r} is wrong, the content is damaged", _REMAKE
            )
        if name == b"IEND":
            return
        position = end + 4
