"""Pictures against the original's input tensor, and against whatever files hold."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compact_oracle import OracleCase
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from waiting import least, own_cpu_seconds

from glip_export.config import ImageConfig
from glip_export.errors import ImageError
from glip_export.image import U8, load_image, load_resized, preprocess, resize, resize_shape, restore_boxes

ORACLE = Path(__file__).parent / "data" / "oracle"
PICTURES = Path(__file__).parent.parent / "glip_export" / "data" / "pictures"
TINY = ImageConfig(min_size=240, max_size=310)


def rgb(height: int, width: int) -> U8:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_resize_shape_equals_the_original() -> None:
    rows = json.loads((ORACLE / "small" / "resize_wh_to_hw.json").read_text())
    assert len(rows) == 318
    assert [[w, h, *resize_shape(h, w, ImageConfig())] for w, h, _, _ in rows] == rows


def test_preprocess_equals_the_original(tiny_oracle: OracleCase) -> None:
    batch = preprocess(tiny_oracle.pictures(), TINY)
    assert batch.images.dtype == np.float32
    assert batch.images.flags.c_contiguous
    assert tiny_oracle.compare("image_batch", batch.images) <= 1e-6
    np.testing.assert_array_equal(batch.sizes, tiny_oracle.stored["image_sizes"])
    np.testing.assert_array_equal(batch.originals, [[219, 287], [311, 266]])
    assert batch.sizes.dtype == batch.originals.dtype == np.int64


@pytest.mark.parametrize("index", [0, 1])
def test_restore_boxes_equals_the_original(tiny_oracle: OracleCase, index: int) -> None:
    io_npz = tiny_oracle.stored
    resized, original = io_npz["image_sizes"][index], tiny_oracle.pictures()[index].shape[:2]
    boxes = restore_boxes(io_npz[f"result{index}_boxes"], tuple(resized), original)
    assert boxes.dtype == np.float32
    assert np.abs(boxes - io_npz[f"result{index}_orig_boxes"]).max() <= 1e-3


def test_preprocess_without_bgr255() -> None:
    config = ImageConfig(min_size=32, max_size=64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), bgr255=False)
    image = rgb(32, 32)
    expected = (image / 255 - config.mean) / config.std
    np.testing.assert_allclose(preprocess([image], config).images[0], expected.transpose(2, 0, 1), atol=1e-5)


def test_preprocess_to_a_fixed_size() -> None:
    batch = preprocess([rgb(100, 150), rgb(400, 100), rgb(80, 80)], TINY, fixed_size=(256, 320))
    assert batch.images.shape == (3, 3, 256, 320)
    assert batch.sizes.tolist() == [[207, 310], [256, 64], [240, 240]]
    for image, (h, w) in zip(batch.images, batch.sizes, strict=True):
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()
        assert image[:, h - 1, w - 1].all()


def test_preprocess_is_fast() -> None:
    """Against one round of NumPy over what comes out, for each picture; Python's loops would be thousands."""
    images, result = [rgb(480, 640)] * 3, np.zeros((3, 800, 1088), np.float32)
    took = least(
        lambda: own_cpu_seconds(lambda: preprocess(images, ImageConfig())),
        lambda: own_cpu_seconds(lambda: [np.multiply(result, 2, dtype=np.float64) for _ in images]),
    )
    assert took < 60


def test_too_narrow_to_resize() -> None:
    assert resize_shape(2, 5000, ImageConfig()) == (1, 2500)
    with pytest.raises(ImageError, match="the picture is 6000 x 2 pixels, too narrow"):
        resize_shape(2, 6000, ImageConfig())
    with pytest.raises(ImageError, match="picture 2 is 6000 x 2 pixels, too narrow"):
        preprocess([rgb(20, 30), rgb(2, 6000)], ImageConfig())
    with pytest.raises(ImageError, match="no picture"):
        preprocess([], ImageConfig())


@pytest.mark.parametrize("fixed_size", [None, (64, 96)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "turned", "alpha", "deep", "right size"])
def test_load_resized_is_load_image_and_resize(tmp_path: Path, kind: str, fixed_size: tuple[int, int] | None) -> None:
    image, exif = Image.fromarray(rgb(150, 230)), Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6
    elif kind == "alpha":
        image.putalpha(Image.fromarray(rgb(150, 230)[..., 0]))
    elif kind == "deep":
        image = Image.fromarray(rgb(150, 230)[..., 0].astype(np.uint16) * 200)
    elif kind == "right size":
        image = image.resize((1200, 800))
    path = tmp_path / "picture"
    image.save(path, kind if kind.isupper() else "JPEG" if kind == "turned" else "PNG", exif=exif)
    whole = load_image(path)
    resized, size = load_resized(path, ImageConfig(), fixed_size)
    assert size == whole.shape[:2] == ((230, 150) if kind == "turned" else whole.shape[:2])
    np.testing.assert_array_equal(resized, resize(whole, ImageConfig(), fixed_size))


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 9000), st.integers(2, 9000))
def test_resize_shape_keeps_to_the_sizes(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > 200:
        return
    h, w = resize_shape(height, width, ImageConfig())
    assert 1 <= min(h, w) <= 800
    assert abs(np.log(h / w * width / height)) < 1 / min(h, w)  # in proportion, but for rounding
    assert resize_shape(width, height, ImageConfig()) == (w, h)


# Sources


def test_every_source_gives_the_same_picture(tmp_path: Path) -> None:
    image = Image.fromarray(rgb(20, 30))
    data = encoded(image, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (path, str(path), data, io.BytesIO(data), file, image, np.asarray(image)):
            picture = load_image(source)
            assert picture.dtype == np.uint8
            np.testing.assert_array_equal(picture, rgb(20, 30))


@pytest.mark.parametrize("name", ["cat", "coffee", "astronaut", "rocket"])
def test_built_in_pictures(name: str) -> None:
    path = PICTURES / f"{name}.jpg"
    assert path.stat().st_size < 120_000
    assert min(load_image(path).shape[:2]) >= 300


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:10, :15] = 255
    turns: dict[int, Callable[[U8], U8]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture), "PNG", exif=exif)
    np.testing.assert_array_equal(load_image(data), turns[orientation](picture))


def test_damaged_exif_is_no_matter() -> None:
    data = encoded(Image.fromarray(rgb(20, 30)), "PNG", exif=b"Exif\x00\x00nonsense")
    np.testing.assert_array_equal(load_image(data), rgb(20, 30))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr", "PA", "RGBX"])
def test_modes_convert_as_in_the_original(mode: str) -> None:
    source = Image.fromarray(rgb(20, 30))
    image = source.convert("LA").convert("PA") if mode == "PA" else source.convert(mode)
    np.testing.assert_array_equal(load_image(image), np.asarray(image.convert("RGB")))


def test_palette_with_transparency_gives_no_warning() -> None:
    image = Image.fromarray(rgb(20, 30)).convert("P")
    expected = np.asarray(image.convert("RGB"))
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(data), expected)


def test_alpha_is_dropped() -> None:
    alpha = np.zeros((20, 30, 1), np.uint8)
    image = Image.fromarray(np.concatenate([rgb(20, 30), alpha], 2))
    np.testing.assert_array_equal(load_image(encoded(image, "PNG")), rgb(20, 30))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    grey = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 109
    picture = load_image(encoded(Image.fromarray(grey), kind))
    np.testing.assert_array_equal(picture[..., 1], np.rint(grey / 257))


@pytest.mark.parametrize(
    ("top", "dtype"), [(1, "f4"), (255, "f4"), (65535, "f4"), (255, "i4"), (65535, "i4"), (9e6, "i4")]
)
def test_deep_grey_is_scaled_by_its_white(top: float, dtype: str) -> None:
    grey = (np.linspace(0, top, 600).reshape(20, 30)).astype(dtype)
    picture = load_image(encoded(Image.fromarray(grey), "TIFF"))
    np.testing.assert_array_equal(picture[..., 0], np.rint(grey.astype("f4") * np.float32(255 / top)))


def test_floats_that_are_no_numbers() -> None:
    grey = np.full((4, 4), 0.5, np.float32)
    grey[0] = [np.nan, np.inf, -np.inf, -3]
    assert load_image(Image.fromarray(grey))[:2, :, 0].tolist() == [[0, 0, 0, 0], [128] * 4]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert load_image(data)[5, 5].tolist() == [255, 0, 0]


def test_arrays() -> None:
    grey = rgb(20, 30)[..., 0]
    np.testing.assert_array_equal(load_image(grey), np.stack([grey] * 3, 2))
    for bad in (rgb(4, 4).astype(np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((3,), np.uint8)):
        with pytest.raises(ImageError, match="uint8 RGB of shape"):
            load_image(bad)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="not int"):
        load_image(3)  # type: ignore[arg-type]


# Bad files


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def block(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", zlib.compress(b"")) + block(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a picture"),
        (b"hello", "not a picture"),
        (b"%PDF-1.7\n", "not a picture"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
        (encoded(Image.fromarray(rgb(200, 300)), "PNG")[:5000], "truncated"),
        (encoded(Image.fromarray(rgb(200, 300)), "JPEG")[:5000], "truncated"),
        (encoded(Image.fromarray(rgb(200, 300)), "GIF")[:5000], "truncated"),
        (encoded(Image.fromarray(rgb(200, 300)), "TIFF")[:5000], "cannot be"),
        (encoded(Image.fromarray(rgb(200, 300)), "WEBP")[:5000], "cannot be|not a picture"),
        (png_header(1, 1), "too small"),
        (png_header(1, 300), "too small"),
        (png_header(10_000, 10_000), "too large: 10000 x 10000"),
        (png_header(60_000, 60_000), "too large"),
    ],
)
def test_bad_file_is_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bad\nname.png"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (path, data):
            with pytest.raises(ImageError, match=words) as caught:
                load_image(source)
            assert "\n" not in str(caught.value)


def test_bad_paths(tmp_path: Path) -> None:
    for source, words in (
        (tmp_path / "none.jpg", "does not exist"),
        (tmp_path, "is a directory"),
        (Path("/dev/zero"), "not a regular file"),
        ("a\0b", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
        ("", "is a directory"),
    ):
        with pytest.raises(ImageError, match=words):
            load_image(source)


def test_pixel_limit_holds_for_every_source() -> None:
    image = Image.fromarray(rgb(20, 30))
    for source in (image, np.asarray(image), encoded(image, "PNG")):
        assert load_image(source, max_pixels=600).shape == (20, 30, 3)
        with pytest.raises(ImageError, match="too large: 30 x 20"):
            load_image(source, max_pixels=599)


SEEDS = [
    encoded(Image.fromarray(rgb(24, 33)), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.data())
def test_damaged_bytes_never_give_a_traceback(seed: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(seed[: data.draw(st.integers(1, len(seed)))])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        picture = load_image(bytes(damaged), max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
