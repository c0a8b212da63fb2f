"""The manifest of a bundle: every field of `manifest.json`, typed and validated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Final, Literal

import pydantic_core
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)

from app.bundles.graph_names import GRAPHS, LIFTED, TOKENS
from app.bundles.texts import ClassName, Printable, Prose, Text, look_alike
from app.errors import BundleError
from app.models.feature_maps import BRANCHES, Branch, transformer_of
from app.pictures.bit_depth import Stretch

# 2 added `input.stretch` and `trust`, 3 other transformers than Swins and earlier cuts. Older formats stay readable.
FORMAT: Final = 3
# The files of every bundle. The baseline is the training data's mean feature maps.
MANIFEST, WEIGHTS, BASELINE = "manifest.json", "model.safetensors", "reference.safetensors"
TRUST = "trust.safetensors"  # of bundles with a trust part
CASES = "cases.safetensors"  # of bundles with an index of their training pictures


Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Side = Annotated[int, Field(gt=0, le=4096)]
_GreyValue = Annotated[int, Field(ge=0, le=65_535)]
Probability = Annotated[float, Field(gt=0, lt=1)]


def _check_stretch(value: Any, validate: Callable[[Any], Any]) -> Stretch:
    try:
        stretch: Stretch = validate(tuple(value) if isinstance(value, list) else value)
    except ValidationError:
        stretch = (1, 0)
    if isinstance(stretch, tuple) and stretch[0] >= stretch[1]:
        raise ValueError("give null, found, or two grey values from 0 to 65535, the smallest first")
    return stretch


# The rule for grey values, in a manifest and in a recipe: see `app.pictures.bit_depth.Stretch`.
StretchRule = Annotated[Literal["found"] | tuple[_GreyValue, _GreyValue] | None, WrapValidator(_check_stretch)]


class Section(BaseModel):
    """Base class of the manifest's sections: frozen and strict, without unknown keys, infinities or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class InputRule(Section):
    """How a picture becomes the model's input: see `app.pictures.prepare.prepare`.

    `stretch` is the rule for the values of greyscale: see `app.pictures.bit_depth.Stretch`.
    """

    height_px: Side
    width_px: Side
    rule: Literal["shortest_side_center_crop"]
    interpolation: Literal["bicubic"]
    stretch: StretchRule = None


class Normalization(Section):
    """A branch's normalisation of RGB in [0, 1]: subtract `mean`, divide by `std`. The model's weights contain it."""

    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class Architecture(Section):
    """The keyword arguments of `CNNViTFusion`, without the image size, which `InputRule` has."""

    cnn: Text
    swin: Text
    cnn_options: dict[str, Any]
    swin_options: dict[str, Any]
    fusion: Literal["cross_attention", "concat", "late", "cnn", "swin"]
    dim: PositiveInt
    heads: PositiveInt
    dropout: float = Field(ge=0, lt=1)
    cnn_reduction: PositiveInt | None = None
    swin_reduction: PositiveInt | None = None
    swin_image_size: tuple[Side, Side] | None = None

    @field_validator("cnn_options", "swin_options")
    @classmethod
    def _reject_other_weights(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name.startswith(("pretrained", "checkpoint", "cache_dir")):
                raise ValueError(f"{name!r} would load weights from elsewhere: remove it")
        return options


class Calibration(Section):
    """Temperature scaling: logits are divided by `temperature` before the softmax.

    `chosen_on` names the pictures that the temperature was fitted on.
    """

    temperature: PositiveFloat
    chosen_on: Text


class Decision(Section):
    """The decision rule for two classes: answer `positive` if its calibrated probability is at least `threshold`."""

    positive: Text
    threshold: Probability
    chosen_on: Text


ReasonCode = Literal[
    "more_than_one_class", "no_class", "contradicts_label", "foreign_picture", "near_threshold", "poor_quality"
]


class Trust(Section):
    """What the bundle knows of its own limits: see `app.trust.fitted`, which reads the numbers in `trust.safetensors`.

    `calibration` is the kind of the calibration map. `chosen_on` names the pictures that everything was fitted to, and
    `pictures` counts them by class. `coverage` is the default coverage of prediction sets, and `largest_coverage` the
    largest that can be promised. `inside` is the share of calibration pictures that count as in distribution, with a
    novelty score up to `novelty_threshold`. An answer is near the threshold if its two best logits differ by less
    than `near_gap`. Pictures with less than `smallest_sharpness` count as blurred. `refers` lists the reasons that
    refer a picture to a person. `figures` were measured by cross-fitting, on pictures that each fit had not seen.
    """

    calibration: Literal["temperature", "platt", "beta", "isotonic", "vector"]
    chosen_on: Text
    pictures: dict[Text, PositiveInt]
    coverage: float = Field(ge=0.5, le=0.99)
    largest_coverage: Probability
    inside: Probability
    novelty_threshold: float
    near_gap: float = Field(ge=0)
    smallest_sharpness: float = Field(ge=0)
    refers: tuple[ReasonCode, ...] = Field(min_length=1)
    figures: dict[Text, float]

    @model_validator(mode="after")
    def _check_coverage(self) -> Trust:
        if self.coverage > self.largest_coverage:
            raise ValueError(f"coverage: at most {self.largest_coverage}, the largest that can be promised")
        return self


class ExplanationChoice(Section):
    """The explanation method of heatmaps where none is named. `chosen_on` names the pictures that it was chosen on."""

    default_method: Text
    chosen_on: Text


class CasesChoice(Section):
    """What the index of training pictures may show of them besides their labels: nothing, unless the card says so.

    `names` are their paths in the data, in place of digests of their files. `groups` are the names of their groups.
    `thumbnails` are small pictures of them, which their licence must allow.
    """

    names: bool = False
    groups: bool = False
    thumbnails: bool = False


class Cases(CasesChoice):
    """The index of similar cases in `cases.safetensors`: what it shows, and how many `pictures` it has."""

    pictures: PositiveInt


class Metrics(Section):
    """Metrics of the bundle's model on one split of the data."""

    split: Text
    pictures: PositiveInt
    values: dict[Annotated[str, Printable], float]


class Description(Section):
    """The part of a manifest that cannot be derived from the model itself.

    `data` names the source of the training pictures and their terms of use. `parent` is the digest of the bundle that
    this one was recalibrated from, with the same weights.
    """

    name: Text
    version: Text
    created: date
    classes: tuple[ClassName, ...] = Field(min_length=2)
    architecture: Architecture
    calibration: Calibration
    decision: Decision | None
    metrics: Metrics
    licence: Prose
    data: Prose
    notes: tuple[Prose, ...]
    recipe: dict[str, Any]
    explanation: ExplanationChoice | None = None
    parent: Sha256 | None = None

    @model_validator(mode="after")
    def _check_classes_and_decision(self) -> Description:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a name is listed twice")
        if alike := look_alike(self.classes):
            raise ValueError(f"classes: {' and '.join(map(ascii, alike[0]))} look the same: rename one of them")
        if self.decision is not None and len(self.classes) != 2:
            raise ValueError(f"decision: a threshold needs exactly 2 classes, but there are {len(self.classes)}")
        if self.decision is not None and self.decision.positive not in self.classes:
            raise ValueError(f"decision: positive is {self.decision.positive!r}, not one of {', '.join(self.classes)}")
        return self


class Manifest(Description):
    """The content of `manifest.json`.

    `files` maps the name of every other file to its SHA-256. `map_shapes` are (channels, height, width). `token_stages`
    are the grid heights of the transformer's stages in the token graph; the tuple is empty if the bundle has no such
    graph. `token_attention` says whether that graph gives the attention of the last block too. `trust` and `cases` are
    null if the bundle has no such part.
    """

    format: Literal[1, 2, 3]
    input: InputRule
    normalization: dict[Branch, Normalization]
    map_shapes: dict[Branch, tuple[PositiveInt, PositiveInt, PositiveInt]]
    token_stages: tuple[PositiveInt, ...] = ()
    token_attention: bool = True
    trust: Trust | None = None
    cases: Cases | None = None
    files: dict[str, Sha256]

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches of the model, the CNN first."""
        return tuple(branch for branch in BRANCHES if branch in self.map_shapes)

    @property
    def transformer_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the transformer's map; all 0 without a transformer."""
        name = transformer_of(self.map_shapes)
        return (0, 0, 0) if name is None else self.map_shapes[name]

    @field_validator("files")
    @classmethod
    def _only_bundle_files(cls, files: dict[str, str]) -> dict[str, str]:
        allowed = (WEIGHTS, BASELINE, TRUST, CASES, *GRAPHS, *LIFTED, TOKENS)
        if unknown := [name for name in files if name not in allowed]:
            raise ValueError(f"{unknown[0]!r} is not a file of a bundle, which holds only {', '.join(allowed)}")
        if missing := [name for name in (WEIGHTS, BASELINE) if name not in files]:
            raise ValueError(f"{missing[0]} is not listed, but every bundle has it")
        for graphs in (GRAPHS, LIFTED):
            if 0 < len(missing_graphs := [name for name in graphs if name not in files]) < len(graphs):
                raise ValueError(
                    f"{missing_graphs[0]} is not listed: a bundle has all of {', '.join(graphs)}, or none of them"
                )
        for name in (TOKENS, LIFTED[0]):
            if name in files and GRAPHS[0] not in files:
                raise ValueError(f"{name} is listed without {', '.join(GRAPHS)}, which it belongs to")
        return files

    @model_validator(mode="after")
    def _check_branches(self) -> Manifest:
        fusion, transformer = self.architecture.fusion, transformer_of(self.map_shapes) or "swin"
        of_one_branch: dict[str, set[str]] = {"cnn": {"cnn"}, "swin": {transformer}}
        branches = of_one_branch.get(fusion, {"cnn", transformer})
        for name in ("normalization", "map_shapes"):
            if getattr(self, name).keys() != branches:
                raise ValueError(f"{name}: fusion {fusion} has the branches {sorted(branches)}")
        new = {"cnn_reduction", "swin_reduction", "swin_image_size"} & self.architecture.model_fields_set
        if self.format < 3 and (new or "vit" in branches or "token_attention" in self.model_fields_set):
            raise ValueError("format: 3 is the first with other transformers, cuts, sizes and token_attention")
        for name in ("explanation", "parent", "cases"):
            if self.format < 3 and name in self.model_fields_set:
                raise ValueError(f"{name}: format 3 is the first with such a key")
        if self.format == 1 and "stretch" in self.input.model_fields_set:
            raise ValueError("input.stretch: format 1 has no such key")
        if self.format == 1 and self.trust is not None:
            raise ValueError("trust: format 1 has no such key")
        if (self.trust is None) != (TRUST not in self.files):
            raise ValueError(f"trust: it belongs to {TRUST}, and one of the two is missing")
        if (self.cases is None) != (CASES not in self.files):
            raise ValueError(f"cases: they belong to {CASES}, and one of the two is missing")
        if self.cases is not None and self.trust is None:
            raise ValueError("cases: only a bundle with a trust part has them")
        if self.trust is not None and self.trust.pictures.keys() != set(self.classes):
            raise ValueError("trust.pictures: it must count the pictures of every class, and of no other")
        if bool(self.token_stages) != (TOKENS in self.files):
            raise ValueError(f"token_stages: they belong to {TOKENS}, and one of the two is missing")
        if self.token_stages and self.token_stages[-1] != self.transformer_shape[1]:
            raise ValueError("token_stages: the last one is not the height of the transformer's map")
        return self


def parse_manifest(text: bytes) -> Manifest:
    """Parse the bytes of `manifest.json`. Raises BundleError, whose message names the faulty field."""
    try:
        content = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise BundleError(MANIFEST, f"is not JSON ({error}): copy the whole bundle") from error
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int or number < 1:
        raise BundleError(MANIFEST, f"format is {number!r}, which no bundle ever had: this version reads 1 to {FORMAT}")
    if number > FORMAT:
        raise BundleError(
            MANIFEST, f"format {number} is newer than this version reads (1 to {FORMAT}): upgrade fusionlens"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise BundleError(MANIFEST, f"{field}: {reason}" if field else reason) from error
