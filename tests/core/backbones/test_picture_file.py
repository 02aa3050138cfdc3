"""One picture of every kind: the right pixels, or the reason."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import raw_pictures as raw
from PIL import Image, ImageCms, ImageOps, features
from raw_pictures import chunk, png, tiff

from lora2_core.backbones.picture_file import read_picture
from lora2_core.errors import LoRA2Error

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8))
WHITE = [255, 255, 255]
ADAM7 = (
    "16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777",
)  # fmt: skip


def read(tmp_path, data, name="a.png"):
    """Pixels [h, w, 3] of a file, or of a picture, and the remarks."""
    (tmp_path / name).write_bytes(data)
    picture, remarks = read_picture(tmp_path / name)
    assert picture.mode == "RGB"
    return np.asarray(picture), remarks


def refused(tmp_path, data, name="a.png"):
    with pytest.raises(LoRA2Error) as error:
        read(tmp_path, data, name)
    return str(error.value)


def saved(picture, kind="PNG", **choices):
    file = io.BytesIO()
    picture.save(file, kind, **choices)
    return file.getvalue()


def grey(values):
    """uint8 [h, w] as pixels."""
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, -1)


def plain(data):
    """What was made of every file before other kinds were cared for."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM"])
def test_colour_of_8_bits_is_what_it_always_was(tmp_path, kind):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("Pillow was built without JPEG 2000")
    data = saved(PHOTO, kind)
    pixels, remarks = read(tmp_path, data, "a.jpg")
    assert (pixels == plain(data)).all() and remarks == []
    if kind not in ("JPEG", "WEBP", "JPEG2000"):
        assert (pixels == np.asarray(PHOTO)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_camera_that_was_turned(tmp_path, kind, orientation):
    pixels = plain(saved(PHOTO, kind))
    upright = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }
    found, _ = read(tmp_path, saved(PHOTO, kind, exif=turned(orientation)))
    wanted = upright.get(orientation, pixels)
    assert found.shape == wanted.shape and (found == wanted).all()


def test_texts_of_a_png_may_turn_it(tmp_path):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    packed = zlib.compress(xmp)
    exif = turned(6).tobytes()
    profile = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    pixels = np.asarray(PHOTO)
    for text in (
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        chunk(b"tEXt", b"Raw profile type exif\0" + profile),
    ):
        data = png(pixels, raw.COLOUR, 8, text)
        assert (read(tmp_path, data)[0] == plain(data)).all()
        assert (read(tmp_path, data)[0] == np.rot90(pixels, -1)).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "exif",
    [b"\x00\x08\x00\x02garbage", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0", b"MM"],
)
def test_a_broken_exif_does_not_matter(tmp_path, kind, exif):
    pixels, _ = read(tmp_path, saved(PHOTO, kind, exif=exif))
    assert (pixels == np.asarray(Image.open(io.BytesIO(saved(PHOTO, kind))))).all()


@pytest.mark.parametrize(
    "texts",
    [
        [chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * 2**21))],
        [chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"x" * 2**27))],
        [chunk(b"tEXt", b"workflow\0" + b"x" * 2**21)] * 40,
        [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 2**22))],
        [chunk(b"zTXt", b"Raw profile type exif\0\0not packed")],
        [chunk(b"iCCP", b"wide\0\0" + zlib.compress(bytes(2**22)))],
        [chunk(b"tEXt", b"")],
    ],
)
def test_texts_of_any_size(tmp_path, texts):
    for data in (
        png(np.asarray(PHOTO), raw.COLOUR, 8, *texts),
        png(np.asarray(PHOTO), raw.COLOUR, 8, after=texts),
    ):
        assert (read(tmp_path, data)[0] == np.asarray(PHOTO)).all()


def test_pixels_without_end_are_refused(tmp_path):
    data = raw.png_of(30_000, 30_000, raw.COLOUR, 8, zlib.compress(bytes(10**6)))
    assert "pixels; make it smaller" in refused(tmp_path, data)
    large = png(np.zeros((9500, 9500), np.uint8), raw.GREY, 1)  # Pillow warns of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path, large)[0].shape == (9500, 9500, 3)


def test_grey_of_16_bits(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    wanted = grey(np.rint(values / 257))
    for data in (
        png(values, raw.GREY, 16),
        saved(Image.fromarray(values), "PNG"),
        saved(Image.fromarray(values), "TIFF"),
        tiff(values, raw.BLACK_IS_ZERO),
        saved(Image.fromarray(values), "TIFF", compression="tiff_lzw"),
    ):
        assert (read(tmp_path, data)[0] == wanted).all()
    assert (read(tmp_path, tiff(values, raw.WHITE_IS_ZERO))[0] == 255 - wanted).all()
    if features.check("jpg_2000"):
        packed = saved(Image.fromarray(values), "JPEG2000")
        assert (read(tmp_path, packed)[0] == wanted).all()


def test_a_map_of_16_bits(tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    data = b"P5 64 64 65535\n" + values.astype(">u2").tobytes()
    assert (read(tmp_path, data)[0] == grey(np.rint(values / 257))).all()


def test_grey_of_12_bits(tmp_path):
    packed = np.array([[0xFF, 0xF0, 0x00, 0x12, 0x34, 0x56]], np.uint8)  # fff, 000, 123, 456
    data = tiff(packed, raw.BLACK_IS_ZERO, bits=12, more={256: (4, [4])})
    wanted = np.rint(np.array([[0xFFF, 0, 0x123, 0x456]]) * 255 / 0xFFF)
    assert (read(tmp_path, data)[0] == grey(wanted)).all()


@pytest.mark.parametrize("colour", [raw.COLOUR, raw.COLOUR_ALPHA])
def test_colour_of_16_bits(tmp_path, colour):
    """Pillow takes the upper 8 bits, which is 1 of 255 off at most."""
    values = RNG.integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    wanted = np.rint(values / 257)
    if colour == raw.COLOUR_ALPHA:
        alpha = np.zeros((8, 8, 1), np.uint16)
        alpha[:4] = 65535
        values = np.concatenate([values, alpha], -1)
        wanted[4:] = 255
    extra = 2 if colour == raw.COLOUR_ALPHA else None
    for data in (png(values, colour, 16), tiff(values, raw.RGB, extra=extra)):
        assert abs(read(tmp_path, data)[0] - wanted).max() <= 1
    planes = tiff(values, raw.RGB, extra=extra, planes=True)
    assert "planes of 16 bits" in refused(tmp_path, planes)


def test_planes_of_8_bits(tmp_path):
    data = tiff(np.asarray(PHOTO), raw.RGB, planes=True)
    assert (read(tmp_path, data)[0] == np.asarray(PHOTO)).all()


@pytest.mark.parametrize("kind", [np.uint32, np.int32])
def test_integers_of_32_bits(tmp_path, kind):
    full = np.iinfo(kind).max
    eight = np.arange(256, dtype=kind).reshape(16, 16)
    for white in (255, 65535, full):
        values = (eight.astype(np.float64) * (white / 255)).astype(kind)
        assert (read(tmp_path, tiff(values, raw.BLACK_IS_ZERO))[0] == grey(eight)).all()
    for dark in (1, 60, 256, 1000, 65536, full // 8):
        said = refused(tmp_path, tiff(np.array([[0, dark]], kind), raw.BLACK_IS_ZERO))
        assert f"from 0 to {dark}" in said and "8 or 16 bits" in said
    if kind == np.int32:
        said = refused(tmp_path, tiff(np.array([[-5, 200]], kind), raw.BLACK_IS_ZERO))
        assert "from -5 to 200" in said


def test_signed_numbers(tmp_path):
    for kind in (np.int8, np.int16):
        data = tiff(np.array([[0, 100]], kind), raw.BLACK_IS_ZERO)
        said = refused(tmp_path, data)
        assert "signed numbers" in said or "TIFF of a kind" in said  # older versions of Pillow


def test_fractions(tmp_path):
    eight = np.arange(256, dtype=np.float32).reshape(16, 16)
    for values in (eight, eight / 255, np.clip(eight / 255, -0.001, 1.001)):
        assert (read(tmp_path, tiff(values, raw.BLACK_IS_ZERO))[0] == grey(eight)).all()
        assert (read(tmp_path, saved(Image.fromarray(values), "TIFF"))[0] == grey(eight)).all()
    bright = np.array([[100.4, 3.2, 250.6, 0.2]], np.float32)
    assert (read(tmp_path, tiff(bright, raw.BLACK_IS_ZERO))[0] == grey(np.rint(bright))).all()
    assert (read(tmp_path, tiff(eight * 0, raw.BLACK_IS_ZERO))[0] == 0).all()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([0.1, 0.2, 0.3, 1.5], "from 0.1 to 1.5"),
        ([0, 1, 2, 5], "from 0 to 5"),
        ([-0.2, 0.2, 0.3, 0.5], "from -0.2 to 0.5"),
        ([0.1, 0.2, 200, 1000], "from 0.1 to 1000"),
        ([0, 1, np.nan, 1], "NaN"),
        ([0, 1, np.inf, 1], "infinity"),
    ],
)
def test_fractions_that_do_not_show_what_is_white(tmp_path, values, named):
    data = tiff(np.array([values], np.float32), raw.BLACK_IS_ZERO)
    said = refused(tmp_path, data)
    assert named in said and "8 or 16 bits" in said


def test_what_pillow_does_not_know_names_the_way_out(tmp_path):
    data = tiff(np.zeros((4, 4, 3), np.float32), raw.RGB)
    assert "TIFF" in refused(tmp_path, data) and "PNG" in refused(tmp_path, data)
    upside = tiff(np.zeros((4, 4), np.float32), raw.WHITE_IS_ZERO)
    assert "0 is white" in refused(tmp_path, upside)
    assert "black or white" in refused(tmp_path, tiff(np.zeros((4, 4), np.uint16), None))


def test_one_bit(tmp_path):
    bits = RNG.integers(0, 2, (9, 13)).astype(np.uint8)
    image = Image.fromarray(bits * 255).convert("1", dither=Image.Dither.NONE)
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        assert (read(tmp_path, saved(image, kind))[0] == grey(bits * 255)).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palettes(tmp_path, kind):
    indices = RNG.integers(0, 4, (8, 8), dtype=np.uint8)
    palette = [10, 20, 30, 200, 0, 0, 0, 200, 0, 255, 255, 0]
    indexed = Image.frombytes("P", (8, 8), indices.tobytes())
    indexed.putpalette(palette)
    wanted = np.array(palette).reshape(4, 3)[indices]
    assert (read(tmp_path, saved(indexed, kind))[0] == wanted).all()


def test_a_palette_with_alpha(tmp_path):
    indices = np.array([[0, 1, 2]])
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255, 0, 100, 0]))
    half = png(indices, raw.INDEXED, 8, palette, chunk(b"tRNS", bytes([0, 128])))
    blue = round(255 * 127 / 255)
    assert read(tmp_path, half)[0].tolist() == [[WHITE, [blue, blue, 255], [0, 100, 0]]]
    gone = png(indices, raw.INDEXED, 8, palette, chunk(b"tRNS", bytes([0])))
    assert read(tmp_path, gone)[0].tolist() == [[WHITE, [0, 0, 255], [0, 100, 0]]]


def test_a_tiff_whose_palette_is_too_dark(tmp_path):
    colours = [0] * 255 + [255] + [0] * 512
    data = tiff(np.array([[255, 0]], np.uint8), raw.PALETTE, more={320: (3, colours)})
    assert "palette" in refused(tmp_path, data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_white(tmp_path, kind):
    pixels = np.zeros((2, 128, 4), np.uint8)
    pixels[0, :, 0] = 255  # an invisible red at the left, more and more visible to the right
    pixels[1, :, 1:3] = 90
    pixels[..., 3] = 2 * np.arange(128)
    choices = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found, _ = read(tmp_path, saved(Image.fromarray(pixels), kind, **choices))
    alpha = pixels[..., 3:].astype(int)
    wanted = (2 * (pixels[..., :3] * alpha + 255 * (255 - alpha)) + 255) // (2 * 255)
    assert (found == wanted).all()
    assert found[0, 0].tolist() == WHITE


def test_grey_with_alpha(tmp_path):
    pixels = np.array([[[0, 0], [0, 255], [100, 128]]], np.uint8)
    mixed = round((100 * 128 + 255 * 127) / 255)
    wanted = grey([[255, 0, mixed]])
    assert (read(tmp_path, png(pixels, raw.GREY_ALPHA, 8))[0] == wanted).all()
    assert (read(tmp_path, tiff(pixels, raw.BLACK_IS_ZERO, extra=2))[0] == wanted).all()
    deep = png(pixels.astype(np.uint16) * 257, raw.GREY_ALPHA, 16)
    assert (read(tmp_path, deep)[0] == wanted).all()
    times_alpha = np.array([[[0, 0], [0, 255], [50, 128]]], np.uint8)
    try:
        found = read(tmp_path, tiff(times_alpha, raw.BLACK_IS_ZERO, extra=1))[0]
    except LoRA2Error as error:
        assert "TIFF" in str(error)  # older versions of Pillow do not know it
    else:
        assert abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_that_is_transparent(tmp_path, depth):
    """The key is written in the depth of the file."""
    white = 2**depth - 1
    values = np.arange(min(white + 1, 256))[None].astype(np.uint16)
    for key in {0, 1, values.max()}:
        data = png(values, raw.GREY, depth, chunk(b"tRNS", struct.pack(">H", key)))
        wanted = np.rint(values * 255 / white)
        wanted[values == key] = 255
        assert (read(tmp_path, data)[0] == grey(wanted)).all()


def test_a_colour_that_is_transparent(tmp_path):
    values = np.array([[[1, 2, 3], [1, 2, 4], [9, 9, 9]]], np.uint8)
    key = chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    wanted = [[WHITE, [1, 2, 4], [9, 9, 9]]]
    assert read(tmp_path, png(values, raw.COLOUR, 8, key))[0].tolist() == wanted
    deep = png(values.astype(np.uint16), raw.COLOUR, 16, key)
    assert "alpha channel" in refused(tmp_path, deep)


def test_inks_without_a_profile(tmp_path):
    image = Image.frombytes("CMYK", (8, 8), RNG.bytes(8 * 8 * 4))
    for kind in ("TIFF", "JPEG"):
        data = saved(image, kind)
        found, remarks = read(tmp_path, data)
        assert (found == plain(data)).all() and remarks == []
    paper = saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert (read(tmp_path, paper)[0] == 255).all()


def test_inks_with_a_profile(tmp_path):
    lab = np.full((2, 2, 2, 2, 3), 128, np.uint8)
    lab[..., 0] = 255 - 60 * np.indices((2, 2, 2, 2)).sum(0)  # every ink is a grey of its own
    profile = raw.cmyk_profile(lab)
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    wanted = ImageCms.profileToProfile(
        image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert abs(np.asarray(wanted).astype(int) - plain(saved(image, "TIFF"))).max() > 50
    for kind in ("TIFF", "JPEG"):
        found, remarks = read(tmp_path, saved(image, kind, icc_profile=profile))
        assert abs(found.astype(int) - np.asarray(wanted)).max() <= (2 if kind == "JPEG" else 0)
        assert remarks == []


def test_inks_with_a_profile_of_something_else(tmp_path):
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"broken", other):
        found, (remark,) = read(tmp_path, saved(image, "TIFF", icc_profile=profile))
        assert (found == plain(saved(image, "TIFF"))).all()
        assert "profile cannot be used" in remark


def test_lab(tmp_path):
    found, _ = read(tmp_path, tiff(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8), raw.LAB))
    assert abs(found.astype(int) - [[WHITE, [0, 0, 0]]]).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    choices = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **choices)
    found, remarks = read(tmp_path, data)
    assert (found == [255, 0, 0]).all()
    assert remarks == ["holds 3 pictures; the first is taken"]


def test_a_first_frame_that_covers_a_part(tmp_path):
    data = bytearray(saved(Image.new("RGB", (2, 2), "red"), "GIF"))
    data[6:10] = struct.pack("<HH", 3, 3)  # the screen, of 3 by 3
    found, _ = read(tmp_path, bytes(data))
    assert (found[:2, :2] == [255, 0, 0]).all()
    assert (found[2] == 255).all() and (found[:, 2] == 255).all()


def test_what_comes_with_a_photograph_is_no_frame(tmp_path):
    data = saved(PHOTO, "MPO", save_all=True, append_images=[PHOTO.resize((8, 8))])
    found, remarks = read(tmp_path, data)
    assert found.shape == (24, 32, 3) and remarks == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.8, 0.97])
def test_a_file_that_ends_early(tmp_path, kind, share):
    data = saved(PHOTO, kind)
    assert len(refused(tmp_path, data[: int(share * len(data))])) > 10


@pytest.mark.parametrize("rows", [0, 1, 11])
def test_rows_that_are_missing(tmp_path, rows):
    whole = zlib.compress(bytes(12 * (1 + 3 * 8)))
    short = zlib.compress(bytes(rows * (1 + 3 * 8)))
    assert (read(tmp_path, raw.png_of(8, 12, raw.COLOUR, 8, whole))[0] == 0).all()
    said = refused(tmp_path, raw.png_of(8, 12, raw.COLOUR, 8, short))
    assert "row" in said or "truncated" in said


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 2), (8, 8), (13, 7)])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_interlaced_files_have_all_their_rows(tmp_path, size, depth):
    width, height = size
    count = 0  # of bytes, by the table of the passes of pixels [PNG, 8.2]
    for row, steps in enumerate(ADAM7):
        for step in set(steps):
            columns = sum(steps[x % 8] == step for x in range(width))
            rows = len(range(row, height, 8))
            count += rows * (1 + (columns * depth + 7) // 8) if columns else 0
    header = struct.pack(">IIBBBBB", width, height, depth, raw.GREY, 0, 0, 1)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    end = chunk(b"IEND", b"")
    whole = start + chunk(b"IDAT", zlib.compress(bytes(count))) + end
    assert (read(tmp_path, whole)[0] == np.zeros((height, width, 3))).all()
    if count > 1:
        short = start + chunk(b"IDAT", zlib.compress(bytes(count - 1))) + end
        assert len(refused(tmp_path, short)) > 10


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "empty"),
        (b"not a picture", "no picture"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a film"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, data, named):
    assert named in refused(tmp_path, data, "a.heic")


def test_avif_is_read_where_pillow_can(tmp_path):
    if "AVIF" not in Image.OPEN:
        pytest.skip("Pillow was built without AVIF")
    found, remarks = read(tmp_path, saved(PHOTO.resize((64, 64)), "AVIF", quality=90), "a.avif")
    assert found.shape == (64, 64, 3) and remarks == []


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for name, said in (("pipe", "no file"), ("gone", "No such file")):
        with pytest.raises(LoRA2Error, match=said):
            read_picture(tmp_path / f"{name}.png")


def _files():
    yield saved(PHOTO, "PNG")
    yield saved(PHOTO, "PNG", exif=turned(6))
    yield saved(PHOTO, "JPEG", exif=turned(3))
    yield saved(PHOTO.convert("CMYK"), "JPEG")
    yield saved(PHOTO, "TIFF", exif=turned(8))
    yield saved(PHOTO.convert("P"), "GIF")
    yield saved(PHOTO.convert("RGBA"), "WEBP", lossless=True)
    yield png(np.zeros((4, 4)), raw.GREY, 2, chunk(b"tRNS", b"\0\1"), chunk(b"zTXt", b"a\0\0x"))
    yield tiff(np.ones((4, 4), np.float32), raw.BLACK_IS_ZERO)
    yield tiff(np.ones((4, 4), np.uint32), raw.BLACK_IS_ZERO)
    yield saved(Image.fromarray(np.ones((4, 4), np.uint16)), "TIFF")
    yield saved(PHOTO.convert("LAB"), "TIFF")


@pytest.mark.parametrize("seed", range(12))
def test_no_file_brings_anything_but_a_picture_or_a_reason(tmp_path, seed):
    rng = np.random.default_rng(seed)
    files = list(_files())
    read_right = 0
    for _ in range(100):
        data = bytearray(files[seed % len(files)])
        for _ in range(rng.integers(1, 8)):
            # what is decided by lies at both ends
            near = rng.choice([len(data), min(len(data), 100)])
            at = int(rng.integers(near)) if rng.random() < 0.7 else len(data) - 1 - int(
                rng.integers(near)
            )  # fmt: skip
            data[at] = rng.choice([0, 1, 2, 255, rng.integers(256)])
        if rng.random() < 0.2:
            del data[int(rng.integers(len(data))) :]
        try:
            read_right += read(tmp_path, bytes(data))[0].size > 0
        except LoRA2Error as error:
            assert str(error)
    assert read_right < 100


def test_random_bytes_are_no_picture(tmp_path):
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 5000, 200):
        assert "no picture" in refused(tmp_path, b"\x07" + rng.bytes(size))
    for start in (
        b"BM",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"P5 ",
    ):
        for size in rng.integers(1, 500, 30):
            assert refused(tmp_path, start + rng.bytes(size))
