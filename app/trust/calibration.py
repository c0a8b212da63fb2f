"""Calibration maps: from logits to probabilities that mean what they say.

Every map is monotone: of two pictures, the one whose logit of a class stands further above the other class's never gets
the lower probability of that class. Maps for two classes work on the margin, the second class's logit minus the
first's, and temperature and vector scaling on any number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from app.bundles.checks import require
from app.shapes import Float

Logits = Float[np.ndarray, "n k"]
Probabilities = Float[np.ndarray, "n k"]
Margins = Float[np.ndarray, " n"]
LARGEST_MARGIN = 50.0  # beyond this, probabilities are 0 and 1 in float64's rounding, and their logarithms infinite


@runtime_checkable
class CalibrationMap(Protocol):
    """A fitted map. `parameters` are its fields as arrays, from which `MAPS[kind]` makes it again."""

    def probabilities(self, logits: Logits) -> Probabilities:
        """The calibrated probabilities of every class, which sum to 1."""
        ...

    def parameters(self) -> dict[str, np.ndarray]:
        """The map as named float64 arrays."""
        ...

    @classmethod
    def of(cls, parameters: Mapping[str, np.ndarray]) -> CalibrationMap:
        """The map with these parameters. Raises ValueError and KeyError if they are not such a map's."""
        ...


def softmax(logits: Logits) -> Probabilities:
    """The softmax over classes."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def sigmoid(margins: Margins) -> Float[np.ndarray, " n"]:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * margins)))


def margins_of(logits: Logits) -> Margins:
    """The second of two classes' logit minus the first's, in float64 and within ±`LARGEST_MARGIN`."""
    wide = np.asarray(logits, np.float64)
    return np.asarray(np.clip(wide[:, 1] - wide[:, 0], -LARGEST_MARGIN, LARGEST_MARGIN))


def _two(second: Float[np.ndarray, " n"]) -> Probabilities:
    return np.stack([1 - second, second], axis=1)


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks"): softmax(logits / T)."""

    temperature: float

    def probabilities(self, logits: Logits) -> Probabilities:
        """See `CalibrationMap.probabilities`."""
        return softmax(np.asarray(logits, np.float64) / self.temperature)

    def parameters(self) -> dict[str, np.ndarray]:
        """See `CalibrationMap.parameters`."""
        return {"temperature": np.array([self.temperature])}

    @classmethod
    def of(cls, parameters: Mapping[str, np.ndarray]) -> Temperature:
        """The map with these parameters. Raises ValueError if they are not such a map's."""
        (temperature,) = parameters["temperature"].tolist()
        require(temperature > 0, "temperature is not positive")
        return cls(temperature)


@dataclass(frozen=True)
class Platt:
    """Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines").

    For two classes: sigmoid(slope · margin + offset). `slope` is not negative.
    """

    slope: float
    offset: float

    def probabilities(self, logits: Logits) -> Probabilities:
        """See `CalibrationMap.probabilities`."""
        return _two(sigmoid(self.slope * margins_of(logits) + self.offset))

    def parameters(self) -> dict[str, np.ndarray]:
        """See `CalibrationMap.parameters`."""
        return {"platt": np.array([self.slope, self.offset])}

    @classmethod
    def of(cls, parameters: Mapping[str, np.ndarray]) -> Platt:
        """The map with these parameters. Raises ValueError if they are not such a map's."""
        slope, offset = parameters["platt"].tolist()
        require(slope >= 0, "platt has a negative slope")
        return cls(slope, offset)


@dataclass(frozen=True)
class Beta:
    """Beta calibration (Kull et al. 2017, "Beta calibration: a well-founded and easily implemented improvement").

    For two classes: sigmoid(a · ln p - b · ln(1 - p) + c), where p = sigmoid(margin). `a` and `b` are not negative.
    """

    a: float
    b: float
    c: float

    def probabilities(self, logits: Logits) -> Probabilities:
        """See `CalibrationMap.probabilities`."""
        first, second = beta_inputs(margins_of(logits))
        return _two(sigmoid(self.a * first + self.b * second + self.c))

    def parameters(self) -> dict[str, np.ndarray]:
        """See `CalibrationMap.parameters`."""
        return {"beta": np.array([self.a, self.b, self.c])}

    @classmethod
    def of(cls, parameters: Mapping[str, np.ndarray]) -> Beta:
        """The map with these parameters. Raises ValueError if they are not such a map's."""
        a, b, c = parameters["beta"].tolist()
        require(a >= 0 and b >= 0, "beta has a negative slope")
        return cls(a, b, c)


def beta_inputs(margins: Margins) -> tuple[Margins, Margins]:
    """ln p and -ln(1 - p) of p = sigmoid(margin), both rising in the margin."""
    return -np.logaddexp(0, -margins), np.logaddexp(0, margins)


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Isotonic regression (Zadrozny and Elkan 2002, "Transforming classifier scores into accurate probabilities").

    For two classes: `values` at the rising margins `knots`, and straight lines between them.
    """

    knots: Float[np.ndarray, " m"]
    values: Float[np.ndarray, " m"]

    def probabilities(self, logits: Logits) -> Probabilities:
        """See `CalibrationMap.probabilities`."""
        return _two(np.interp(margins_of(logits), self.knots, self.values))

    def parameters(self) -> dict[str, np.ndarray]:
        """See `CalibrationMap.parameters`."""
        return {"knots": self.knots, "values": self.values}

    @classmethod
    def of(cls, parameters: Mapping[str, np.ndarray]) -> Isotonic:
        """The map with these parameters. Raises ValueError if they are not such a map's."""
        knots, values = parameters["knots"], parameters["values"]
        require(knots.ndim == 1 and knots.shape == values.shape and len(knots) > 0, "knots and values do not match")
        require(bool((np.diff(knots) > 0).all() and (np.diff(values) >= 0).all()), "knots or values do not rise")
        require(bool(values[0] >= 0 and values[-1] <= 1), "values are not between 0 and 1")
        return cls(knots, values)


@dataclass(frozen=True, eq=False)
class VectorScaling:
    """Vector scaling (Guo et al. 2017): softmax(scales · logits + offsets), with one of each for every class.

    Scales are positive.
    """

    scales: Float[np.ndarray, " k"]
    offsets: Float[np.ndarray, " k"]

    def probabilities(self, logits: Logits) -> Probabilities:
        """See `CalibrationMap.probabilities`."""
        return softmax(self.scales * np.asarray(logits, np.float64) + self.offsets)

    def parameters(self) -> dict[str, np.ndarray]:
        """See `CalibrationMap.parameters`."""
        return {"scales": self.scales, "offsets": self.offsets}

    @classmethod
    def of(cls, parameters: Mapping[str, np.ndarray]) -> VectorScaling:
        """The map with these parameters. Raises ValueError if they are not such a map's."""
        scales, offsets = parameters["scales"], parameters["offsets"]
        require(scales.ndim == 1 and scales.shape == offsets.shape, "scales and offsets do not match")
        require(bool((scales > 0).all()), "scales are not positive")
        return cls(scales, offsets)


MAPS: dict[str, type[CalibrationMap]] = {
    "temperature": Temperature,
    "platt": Platt,
    "beta": Beta,
    "isotonic": Isotonic,
    "vector": VectorScaling,
}
