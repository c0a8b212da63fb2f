"""Decodes uploaded bytes to an upright 8-bit RGB picture. Serving, training and evaluation all use this function."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from app.errors import EmptyUpload, PictureTooLarge, UnreadablePicture, UnsupportedMediaType
from app.pictures.bit_depth import Stretch, deep_to_grey, stretch_grey
from app.pictures.canvas import clear_outside, covered_box
from app.pictures.colour import to_srgb
from app.pictures.container_limits import check_container, webp_size
from app.pictures.declared_colour import declared_colours
from app.pictures.formats import SIGNATURES, SNIFFED_BYTES, describe, format_of, is_installed
from app.pictures.limits import Limits as Limits
from app.pictures.multi_picture import holds_other_pictures
from app.pictures.orientation import DECODE_ERRORS, Sides, read_orientation, turn_upright
from app.pictures.samples import DeepGrey, keep_low_bytes, keeps_high_byte_only, read_samples
from app.pictures.unsupported import reason_of_failure, refuse_unsupported

PREVIEW_SIDE_PX = 1024
TOO_MUCH_MEMORY = "Decoding the picture needs more memory than it may use: send a smaller picture."
# A picture is first reduced by a whole factor, then resized smoothly. As with Pillow's `reducing_gap`, the reduced
# picture must exceed the result by this factor, so that the resize hides the coarse averaging. The values were measured
# in tests/pictures/test_reduced_decoding.py.
INPUT_REDUCING_GAP, PREVIEW_REDUCING_GAP = 3.0, 1.5
_TILE_SIDES = (322, 323)  # TIFF tags: width and height of a tile
_LARGEST_SPARE_TILE_PX = 1024 * 1024  # a tile of so many pixels may be larger than its picture
_SUBFILE_TYPE, _SUBDIRECTORIES = 254, 330  # TIFF tags
_RAW_TAGS = {
    33421,
    46275,
    50706,
}  # TIFF tags of cameras' raw files: a colour filter's pattern, Sony's data, DNG's version


@dataclass(frozen=True)
class TargetSizes:
    """The sizes that a picture is decoded for: a model's input (height, width), and a preview's longest side.

    Evaluation sets both too, although it needs no preview: so it gets the same input from a file as the service.
    """

    input_size: tuple[int, int]
    preview_side_px: int = PREVIEW_SIDE_PX

    def reduction(self, width_px: int, height_px: int) -> int:
        """The factor, 1, 2, 4 or 8, by which a JPEG of this size may be reduced while it is decoded.

        The picture may be stored on its side, so width and height may be exchanged.
        """
        for_input = min(width_px, height_px) / max(self.input_size) / INPUT_REDUCING_GAP
        for_preview = max(width_px, height_px) / self.preview_side_px / PREVIEW_REDUCING_GAP
        return next((factor for factor in (8, 4, 2) if factor <= min(for_input, for_preview)), 1)


@dataclass(frozen=True)
class Picture:
    """A decoded upload: upright 8-bit RGB without metadata.

    `notes` are sentences about what the sender may not expect. If the picture was decoded at a reduced scale, each
    pixel of `image` stands for `reduced_by` × `reduced_by` pixels of the upload. If `reduced_by` does not divide a
    side, the last pixel of the image reaches beyond the picture: `overhang` is how far it does so at the left, top,
    right and bottom, in pixels of the image.
    """

    image: Image.Image
    format: str
    notes: tuple[str, ...] = ()
    reduced_by: int = 1
    overhang: Sides = (0.0, 0.0, 0.0, 0.0)

    @property
    def width_px(self) -> int:
        """Width of the upright upload."""
        return round((self.image.width - self.overhang[0] - self.overhang[2]) * self.reduced_by)

    @property
    def height_px(self) -> int:
        """Height of the upright upload."""
        return round((self.image.height - self.overhang[1] - self.overhang[3]) * self.reduced_by)


def decode(data: bytes, limits: Limits, sizes: TargetSizes | None = None, stretch: Stretch = None) -> Picture:
    """Decode an upload to 8-bit sRGB: the first frame, upright by its EXIF orientation, on white where transparent.

    `stretch` says how the values of greyscale become 0 to 255. With `sizes`, a large JPEG is decoded at the smallest of
    libjpeg's scales 1, 1/2, 1/4 and 1/8 that they allow, which saves most of the time. Other formats are decoded at
    full size and, if a profile changes their colours, reduced then. Raises EmptyUpload, UnsupportedMediaType,
    PictureTooLarge (from the header, before any pixel is decoded) and UnreadablePicture.
    """
    if not data:
        raise EmptyUpload("The upload is empty: send the bytes of a picture.")
    format_name = _format(data, limits)
    _silence_pillow()
    notes: list[str] = []
    image = None
    try:
        check_container(data, format_name)
        if format_name == "WEBP":  # Pillow reserves memory for the pixels when it opens the file
            limits.check("picture", *webp_size(data))
        refuse_unsupported(data, format_name)
        image = open_image(data, format_name)
        limits.check("picture", *image.size, can_reduce=_can_reduce(image))
        _check_tiles(image, limits)
        _refuse_raw(image)
        notes += _choose_frame(image)
        reduced_by, overhang = _reduce(image, sizes)
        rgb, colour_notes = _to_rgb(image, data, limits, sizes if reduced_by == 1 else None, stretch)
        notes += colour_notes
        if rgb.size != image.size:
            reduced_by, overhang = _reduced(image.size, rgb.size)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(f"The picture has far too many pixels. {limits.describe()}") from error
    except MemoryError as error:
        raise PictureTooLarge(TOO_MUCH_MEMORY) from error
    except DECODE_ERRORS as error:
        raise UnreadablePicture(reason_of_failure(data, format_name, is_open=image is not None)) from error
    stored = read_orientation(image)
    if stored is None:
        notes.append("The EXIF data is damaged; the picture was taken as upright.")
    rgb, overhang = turn_upright(rgb, overhang, stored)
    rgb.info.clear()
    return Picture(rgb, format_name, tuple(notes), reduced_by, overhang)


def _format(data: bytes, limits: Limits) -> str:
    name = format_of(data[:SNIFFED_BYTES])
    if name in limits.formats and (name in SIGNATURES or is_installed(name)):
        return name
    known = describe(data[:SNIFFED_BYTES])
    if name is None:
        raise UnsupportedMediaType(f"This is {known}, which is not read: send {', '.join(limits.formats)}.")
    how = "pip install 'fusionlens[heif]'" if name in limits.formats else f"add {name} to FUSIONLENS_MORE_FORMATS"
    raise UnsupportedMediaType(
        f"This is {known}, which this service does not read: send {', '.join(SIGNATURES)}. To read it: {how}."
    )


def open_image(data: bytes, format_name: str) -> Image.Image:
    """Pillow's image of a file of this format, of which only the header has been read. Raises what Pillow raises."""
    if format_name == "JPEG":  # Image.open would give a JPEG with several frames to the loader of another format, MPO
        return JpegImageFile(io.BytesIO(data))
    if format_name == "HEIF":
        from pillow_heif import HeifImageFile  # imported here because it is an optional dependency

        heif: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
        return heif
    return Image.open(io.BytesIO(data), formats=[format_name])


def _silence_pillow() -> None:
    """Keep Pillow's warnings about an uploaded file out of the logs: notes and errors tell the sender.

    The filter stays, because `warnings.catch_warnings` is not thread-safe. It is added only if it is not the first one
    already, because any change of the filters makes Python repeat all other warnings.
    """
    module = r"PIL\."
    if not warnings.filters or warnings.filters[0][3] != re.compile(module):
        warnings.filterwarnings("ignore", module=module)


def _reduce(image: Image.Image, sizes: TargetSizes | None) -> tuple[int, Sides]:
    """Let Pillow decode a JPEG at a reduced scale. Returns the factor and the overhang; call it before `image.load`.

    libjpeg averages squares, starting at the upper left corner, and rounds the sides up.
    """
    width, height = image.size
    factor = sizes.reduction(width, height) if sizes and _can_reduce(image) else 1
    if factor == 1 or image.draft(None, (width // factor, height // factor)) is None:
        return 1, (0.0, 0.0, 0.0, 0.0)
    return _reduced((width, height), image.size)


def _reduced(size: tuple[int, int], reduced_size: tuple[int, int]) -> tuple[int, Sides]:
    """The factor between two sizes, and the overhang of the smaller one."""
    factor = -(-max(size) // max(reduced_size))
    return factor, (0.0, 0.0, reduced_size[0] - size[0] / factor, reduced_size[1] - size[1] / factor)


def _can_reduce(image: Image.Image) -> bool:
    """Whether libjpeg can decode the picture at a reduced scale. A lossless JPEG has no quantization tables."""
    return bool(getattr(image, "quantization", None))


def _check_tiles(image: Image.Image, limits: Limits) -> None:
    """Raises PictureTooLarge for a TIFF whose tiles are much larger than the picture: each is decoded whole."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag, 0) for tag in _TILE_SIDES)
    if isinstance(width, int) and isinstance(height, int):
        limits.check("picture's tile", width, height)
        if width * height > 4 * max(image.width * image.height, _LARGEST_SPARE_TILE_PX):
            raise PictureTooLarge(f"The picture's tiles are {width} × {height} px, much larger than the picture.")


def _refuse_raw(image: Image.Image) -> None:
    """Raises UnsupportedMediaType for a TIFF with a thumbnail, or a sensor's data, where its picture should be."""
    tags = getattr(image, "tag_v2", {})
    is_reduced = tags.get(_SUBFILE_TYPE) in (1, 3) and (_SUBDIRECTORIES in tags or getattr(image, "n_frames", 1) > 1)
    if is_reduced or _RAW_TAGS & {*tags}:
        raise UnsupportedMediaType(
            "This is a camera's raw file, or a TIFF that begins with a thumbnail of its picture: develop it, and save "
            "the picture as JPEG, PNG or a TIFF of one page."
        )


def _choose_frame(image: Image.Image) -> list[str]:
    """Choose the frame to decode: the first one, or in an HEIF file the main picture. Returns what to say about it."""
    if image.format == "JPEG" and holds_other_pictures(image):
        return ["The file holds several pictures; only the first was used."]
    if not getattr(image, "is_animated", False):
        return []
    if image.format == "HEIF":
        return ["The file holds several pictures; only its main picture was used."]
    image.seek(0)
    return ["The file holds several frames; only the first was used."]


def _to_rgb(
    image: Image.Image, data: bytes, limits: Limits, sizes: TargetSizes | None, stretch: Stretch
) -> tuple[Image.Image, list[str]]:
    """Decode the pixels and convert them to sRGB. Returns the picture, and what the sender should know.

    If a profile changes its colours, the picture is reduced as far as `sizes` allow.
    """
    if image.mode in {"I", "F", "LAB"}:
        raise UnreadablePicture(
            f"Pixels of type {image.mode} are not supported: convert the picture to 8-bit colour or 16-bit greyscale."
        )
    keep_low_bytes(image, data)
    covered = covered_box(image, data)
    white = 65_535 if keeps_high_byte_only(image) else 255
    image.load()
    limits.check("picture", *image.size, can_reduce=_can_reduce(image))  # an HEIF file can declare a smaller size
    samples = read_samples(image, data, limits)
    if isinstance(samples, DeepGrey):
        colours, range_notes = deep_to_grey(samples, stretch)
    else:
        colours, range_notes = stretch_grey(clear_outside(samples, covered), stretch, white)
    colours.info = {key: value for key, value in image.info.items() if key != "transparency"}
    declared = declared_colours(image, data, colours.mode)
    rgb, notes = to_srgb(colours, sizes.reduction(*image.size) if sizes else 1, declared)
    return rgb, [*range_notes, *notes]
