"""The array types of annotations, which say an array's shape: https://docs.kidger.site/jaxtyping.

Importing jaxtyping takes 12 MB and 50 ms, and only those who check types need it: mypy, and tests, which import it
first. For everybody else the names stand for arrays of any shape and type.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Float16 as Float16
    from jaxtyping import Float32 as Float32
    from jaxtyping import Float64 as Float64
    from jaxtyping import Int as Int
    from jaxtyping import Integer as Integer
    from jaxtyping import Shaped as Shaped
    from jaxtyping import UInt8 as UInt8
    from jaxtyping import UInt16 as UInt16
    from jaxtyping import UInt32 as UInt32
    from jaxtyping import UInt64 as UInt64
else:

    class Bool:
        """`Bool[np.ndarray, "h w"]` is `np.ndarray`."""

        def __class_getitem__(cls, array_and_shape: tuple[Any, str]) -> Any:
            return array_and_shape[0]

    Float = Float16 = Float32 = Float64 = Int = Integer = Shaped = UInt8 = UInt16 = UInt32 = UInt64 = Bool
