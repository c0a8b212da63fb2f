"""Data augmentation: each picture becomes two views, one for each branch.

Both views share one random geometric transform. Each branch draws its own photometric changes. All arrays hold 8-bit
pixels. Flips, rotation, shift and scale are combined into one affine map, and brightness, contrast, saturation and hue
into one colour matrix, so that pixels are resampled and rounded once for geometry and once for colour.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from app.shapes import Float, UInt8
from training.recipe.config import Augmentation, Geometry, Photometry

Pixels = UInt8[np.ndarray, "h w 3"]

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in grey, ITU-R BT.601
_BLUR_SIGMA_PX = (0.1, 2.0)
# Ranges of the erased share of the picture and of its aspect ratio, from Zhong et al. 2020.
_ERASED_SHARE = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)


class TwoViews:
    """Turns a picture into a view for the CNN and a view for the Swin, whose tokens show the same places.

    `size` is the pictures' (height, width) in px. All random choices come from the generator that each call receives.
    """

    def __init__(self, config: Augmentation, size: tuple[int, int]) -> None:
        self.config, self.size = config, size

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], rng: np.random.Generator
    ) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 h w"]]:
        """Return the CNN's view and the Swin's view, both of the picture's size.

        Raises ValueError if the picture is not of `size`.
        """
        if tuple(image.shape[1:]) != tuple(self.size):
            raise ValueError(f"expected a picture of {self.size} px, not {tuple(image.shape[1:])}")
        transformed = _apply_geometry(image.permute(1, 2, 0).numpy(), self.config.geometry, rng)
        cnn, swin = (
            _apply_photometry(transformed, photometry, rng) for photometry in (self.config.cnn, self.config.swin)
        )
        return _channels_first(cnn), _channels_first(swin)


def _apply_geometry(image: Pixels, geometry: Geometry, rng: np.random.Generator) -> Pixels:
    """Flip, rotate, scale and shift the picture. Pixels beyond its edges are its reflection, so no corner is black."""
    flips = rng.choice([-1.0, 1.0], 2) if geometry.flip else np.ones(2)
    angle = np.deg2rad(rng.uniform(-geometry.rotation_degrees, geometry.rotation_degrees))
    size_px = np.array([image.shape[1], image.shape[0]])  # x, y
    shift_px = rng.uniform(-geometry.translate, geometry.translate, 2) * size_px
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rng.uniform(*geometry.scale) * rotation * flips
    centre = (size_px - 1) / 2
    affine = np.column_stack([linear, centre + shift_px - linear @ centre])
    if np.array_equal(affine, np.eye(2, 3)):
        return image
    width, height = image.shape[1], image.shape[0]
    transformed = cv2.warpAffine(
        image, affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(transformed, np.uint8)


def _apply_photometry(image: Pixels, photometry: Photometry, rng: np.random.Generator) -> Pixels:
    """Change the colours, and with the configured probabilities blur, compress and erase a rectangle of the picture.

    The input array is not modified.
    """
    matrix = _colour_matrix(photometry, np.array(cv2.mean(image)[:3]), rng)
    if not np.array_equal(matrix, np.eye(3, 4)):
        image = np.asarray(cv2.transform(image, matrix), np.uint8)
    if rng.random() < photometry.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(*_BLUR_SIGMA_PX)), np.uint8)
    if photometry.jpeg and rng.random() < photometry.jpeg:  # runs without it draw the numbers that they always drew
        image = _compressed(image, int(rng.integers(*photometry.jpeg_quality, endpoint=True)))
    return _erase_rectangle(image, rng) if rng.random() < photometry.erasing else image


def _compressed(image: Pixels, quality: int) -> Pixels:
    """The picture as it looks after compression as JPEG, whose artefacts may otherwise tell where it is from."""
    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR))[..., ::-1], np.uint8)


def _colour_matrix(
    photometry: Photometry, mean: Float[np.ndarray, "3"], rng: np.random.Generator
) -> Float[np.ndarray, "3 4"]:
    """Draw brightness, contrast, saturation and hue as one affine colour map.

    The matrices are those of Haeberli, "Matrix Operations for Image Processing", 1993. Brightness scales the colours.
    Contrast blends them with the picture's mean grey, and saturation with each pixel's own grey. Hue is a rotation
    about the grey axis. The first three commute, so their order does not matter.

    `mean` is the picture's mean colour. The last column of the result is the offset.
    """
    brightness, contrast, saturation = (
        rng.uniform(max(0.0, 1 - strength), 1 + strength)
        for strength in (photometry.brightness, photometry.contrast, photometry.saturation)
    )
    hue = _hue_rotation(2 * np.pi * rng.uniform(-photometry.hue, photometry.hue))
    linear = brightness * contrast * hue @ (saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1)))
    grey = brightness * (1 - contrast) * float(_LUMA @ mean)
    return np.column_stack([linear, np.full(3, grey)])


def _hue_rotation(angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotate colours about the grey axis (1, 1, 1) by an angle in radians, after Rodrigues' formula.

    A third of a full turn maps red to green, green to blue and blue to red.
    """
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation: Float[np.ndarray, "3 3"] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


def _erase_rectangle(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Fill one random rectangle with the picture's mean colour (random erasing, Zhong et al. 2020).

    Noise would be a texture that no real picture has, and would have to match the model's normalisation to look
    neutral. The mean colour removes the content and adds little else.
    """
    height, width = image.shape[:2]
    area = rng.uniform(*_ERASED_SHARE) * height * width
    aspect = np.exp(rng.uniform(*np.log(_ERASED_ASPECT)))
    erased_height = min(height, max(1, round(np.sqrt(area * aspect))))
    erased_width = min(width, max(1, round(np.sqrt(area / aspect))))
    top, left = rng.integers(height - erased_height + 1), rng.integers(width - erased_width + 1)
    erased = image.copy()
    erased[top : top + erased_height, left : left + erased_width] = np.rint(cv2.mean(image)[:3])
    return erased


def _channels_first(image: Pixels) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.stack(cv2.split(image)))
