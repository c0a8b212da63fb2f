"""A region of a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

R = TypeVar("R", bound="Rectangle")


@dataclass(frozen=True)
class Rectangle:
    """A region of a picture, in its pixels. Coordinates are continuous: a pixel's centre is at +0.5."""

    __pydantic_config__: ClassVar[dict[str, bool]] = {"use_attribute_docstrings": True}  # the API answers with it

    left_px: float
    """its left edge"""
    top_px: float
    """its upper edge"""
    width_px: float
    """its width"""
    height_px: float
    """its height"""

    @property
    def sides(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom: the order of a box in Pillow."""
        return self.left_px, self.top_px, self.left_px + self.width_px, self.top_px + self.height_px

    def scaled(self: R, factor_x: float, factor_y: float) -> R:
        """The same region after the picture was resized by these factors."""
        return replace(
            self,
            left_px=self.left_px * factor_x,
            top_px=self.top_px * factor_y,
            width_px=self.width_px * factor_x,
            height_px=self.height_px * factor_y,
        )
