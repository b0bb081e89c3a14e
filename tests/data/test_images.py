"""Frames and masks come out of files exactly, and every kind of damage is named."""

import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semivss.data.images import read_color_mask, read_frame, read_mask
from semivss.errors import DefectError


def photo(height=40, width=60):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([4 * rows, 4 * columns, 2 * (rows + columns)], axis=-1).astype(np.uint8)


def save(path: Path, array, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def kind_of(read, path: Path) -> str:
    with pytest.raises(DefectError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value.kind


# --- frames


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"keep_rgb": True}, {"mode": "L"}, {"mode": "CMYK"}],
    ids=str,
)
def test_both_decoders_of_jpegs_give_the_same_numbers(tmp_path, monkeypatch, options):
    import torchvision  # noqa: F401 -- from here on it is used

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8))
    picture.convert(options.pop("mode", "RGB")).save(tmp_path / "a.jpg", **options)
    one = read_frame(tmp_path / "a.jpg")
    monkeypatch.delitem(sys.modules, "torchvision")
    np.testing.assert_array_equal(one, read_frame(tmp_path / "a.jpg"))
    assert one.flags.writeable


def test_damaged_jpegs_are_named_alike_by_both_decoders(tmp_path, monkeypatch):
    import torchvision  # noqa: F401

    whole = save(tmp_path / "whole.jpg", photo()).read_bytes()
    tables = whole.find(b"\xff\xc4")
    damaged = {"cut": whole[:500], "tables": whole[: tables + 5] + bytes(15) + whole[tables + 20 :]}
    for name, data in damaged.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    kinds = [kind_of(read_frame, tmp_path / f"{name}.jpg") for name in damaged]
    monkeypatch.delitem(sys.modules, "torchvision")
    assert [kind_of(read_frame, tmp_path / f"{name}.jpg") for name in damaged] == kinds == ["truncated", "truncated"]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_frame_is_rgb(tmp_path, suffix):
    frame = read_frame(save(tmp_path / f"a{suffix}", photo()))
    assert frame.shape == (40, 60, 3)
    assert frame.dtype == np.uint8
    assert np.abs(frame.astype(int) - photo()).mean() < (0.001 if suffix == ".png" else 8)
    frame[0, 0] = 1  # training writes into frames


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P", "RGBA", "LA"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture = Image.fromarray(photo()).convert(mode)
    picture.save(path, **({"quality": 95} if mode == "CMYK" else {}))
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(read_frame(path) - expected).mean() < 3


def test_a_grey_jpeg_has_three_equal_channels(tmp_path):
    frame = read_frame(save(tmp_path / "a.jpg", photo()[..., 0]))
    assert frame.shape == (40, 60, 3)
    assert (frame[..., 0] == frame[..., 2]).all()
    assert frame[..., 0].max() > 100


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10)
    frame = read_frame(save(tmp_path / "a.png", values))
    assert (frame[..., 1] == values >> 8).all()


def test_the_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_frame(save(tmp_path / "a.jpg", photo(), exif=exif)).shape == (40, 60, 3)


def test_the_content_decides_not_the_name(tmp_path):
    path = save(tmp_path / "a.png", photo()).rename(tmp_path / "a.jpg")
    assert (read_frame(path) == photo()).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_cut_frame_is_truncated(tmp_path, suffix, share):
    data = save(tmp_path / f"a{suffix}", photo(200, 300)).read_bytes()
    path = tmp_path / f"b{suffix}"
    path.write_bytes(data[: max(6, int(share * len(data)))])
    assert kind_of(read_frame, path) == "truncated"


def test_a_jpeg_with_a_tail_of_zeros_is_truncated(tmp_path):
    thumbnail = save(tmp_path / "thumbnail.jpg", photo(8, 8)).read_bytes()
    data = save(tmp_path / "a.jpg", photo(200, 300), comment=thumbnail).read_bytes()  # brings an end marker of its own before the scan
    assert data.count(b"\xff\xd9") == 2
    (tmp_path / "b.jpg").write_bytes(data[: len(data) * 9 // 10] + bytes(100_000))
    np.asarray(Image.open(tmp_path / "b.jpg"))  # the decoder alone says nothing
    assert kind_of(read_frame, tmp_path / "b.jpg") == "truncated"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "zero_byte"),
        (b"just some text\n" * 40, "wrong_type"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(400), "wrong_type"),
        (None, "missing_file"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, content, kind):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    assert kind_of(read_frame, path) == kind
    assert kind_of(read_mask, path) == kind


@pytest.mark.parametrize("size", [(10_001, 10_000), (16_000, 12_000), (100_000, 100_000)])
def test_a_huge_picture_is_refused_by_its_header_without_a_warning(tmp_path, size):
    path = tmp_path / "a.png"
    path.write_bytes(png(*size, 8, 0, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind_of(read_frame, path) == "too_large"
        assert kind_of(read_mask, path) == "too_large"


# --- masks


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=40), palette=st.booleans())
def test_mask_values_survive(tmp_path_factory, values, palette):
    ids = np.array([values], np.uint8)
    picture = Image.fromarray(ids)
    if palette:
        picture.putpalette(bytes(255 - i // 3 for i in range(768)))
    path = tmp_path_factory.mktemp("masks") / "a.png"
    picture.save(path)
    assert (read_mask(path) == ids).all()


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kind", [0, 3])
def test_low_bit_depths_keep_their_values(tmp_path, depth, kind):
    ids = np.arange(8, dtype=np.uint8) % 2**depth
    bits = "".join(f"{value:0{depth}b}" for value in ids)
    row = bytes([0]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
    (tmp_path / "a.png").write_bytes(png(8, 1, depth, kind, row, chunk(b"PLTE", bytes(range(3 * 2**depth))) if kind == 3 else b""))
    assert read_mask(tmp_path / "a.png")[0].tolist() == ids.tolist()


def test_a_sixteen_bit_mask_is_read_where_its_ids_fit(tmp_path):
    ids = np.array([[0, 3, 255]], np.uint16)
    assert read_mask(save(tmp_path / "a.png", ids)).tolist() == [[0, 3, 255]]
    path = save(tmp_path / "b.png", ids * 257)
    assert kind_of(read_mask, path) == "mask_16bit"


def test_transparency_that_is_the_same_everywhere_is_dropped(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = tmp_path / "la.png"
    for alpha in (255, 128):
        Image.fromarray(np.dstack([values, np.full_like(values, alpha)]), "LA").save(path)
        np.testing.assert_array_equal(read_mask(path), values)
    Image.fromarray(np.dstack([values, values]), "LA").save(path)
    assert kind_of(read_mask, path) == "mask_alpha"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_mask_is_an_error_that_names_the_remedy(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.fromarray(photo()).convert(mode).save(path)
    assert kind_of(read_mask, path) == "mask_rgb"
    with pytest.raises(DefectError, match="semivss data import"):
        read_mask(path)


def test_a_jpeg_mask_is_an_error(tmp_path):
    assert kind_of(read_mask, save(tmp_path / "a.jpg", photo()[..., 0])) == "wrong_type"


@settings(max_examples=60, deadline=None)
@given(place=st.integers(8, 10**6), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_mask_goes_unseen(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("masks")
    data = bytearray(save(folder / "a.png", photo()[..., 0]).read_bytes())
    data[8 + place % (len(data) - 8)] ^= 1 << bit
    (folder / "b.png").write_bytes(data)
    assert kind_of(read_mask, folder / "b.png") in {"truncated", "corrupt_png"}


def test_a_colour_coded_mask_is_read_as_colours(tmp_path):
    assert (read_color_mask(save(tmp_path / "a.png", photo())) == photo()).all()
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette(bytes([1, 2, 3, 200, 100, 50]))
    picture.save(tmp_path / "b.png")
    assert read_color_mask(tmp_path / "b.png").tolist() == [[[1, 2, 3], [200, 100, 50]]]
    assert kind_of(read_color_mask, save(tmp_path / "c.png", photo()[..., 0])) == "mask_grey"
