"""The recipe of a training run: all of its options with their bounds. `load.py` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from app.bundles.manifest import StretchRule
from app.models.cnnswin import Fusion
from training.errors import TrainingProblem
from training.spelling import column_key, normalised


class RecipeError(TrainingProblem, ValueError):
    """A recipe that cannot be used. The message says why."""


class StrictModel(BaseModel):
    """A frozen model in which unknown keys are errors, and in which no value is taken for one of another type.

    A truth value is no number, and neither is a text. A whole number may stand for a fraction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        """YAML and JSON have lists for what is a tuple here."""
        return tuple(value) if isinstance(value, list) else value


# Every number has an upper bound too: beyond it, it is a mistake that would end a run late and without a sentence.
Side = Annotated[int, Field(ge=1, le=2048)]
Strength = Annotated[float, Field(ge=0, le=10)]
Quality = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _path_of(value: Any) -> Any:
    """A text as a path, in which a shell's ~ means the home folder."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError("it is empty: give a path, or leave the key out")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # of a user that there is not
        raise ValueError(f"{error}") from error


def _check_name(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("a name has letters or digits, and no line breaks or other control characters")
    return value


WeightsPath = Annotated[Path, BeforeValidator(_path_of)]
Name = Annotated[str, Field(min_length=1), AfterValidator(_check_name)]


class ModelConfig(StrictModel):
    """The arguments of `CNNViTFusion`. `swin` is any transformer. The `…_options` are passed to timm's constructors."""

    cnn: str = "efficientnet_b0"
    swin: str = "swin_tiny_patch4_window7_224"
    fusion: Fusion = "cross_attention"
    image_size: tuple[Side, Side] = Field((224, 224), description="height and width in px")
    dim: int = Field(512, ge=1, le=16_384)
    heads: int = Field(8, ge=1, le=1024)
    dropout: float = Field(0.0, ge=0, lt=1)
    cnn_options: dict[str, Any] = {}
    swin_options: dict[str, Any] = {}
    cnn_reduction: int | None = Field(None, ge=1, le=2048)
    swin_reduction: int | None = Field(None, ge=1, le=2048)
    swin_image_size: tuple[Side, Side] | None = Field(None, description="where it is not image_size")


class Start(StrictModel):
    """The initial weights of a branch: timm's download, a local file, or random numbers if neither is given."""

    pretrained: bool = False
    weights: WeightsPath | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Start:
        if self.pretrained and self.weights:
            raise ValueError("pretrained: true and weights: PATH exclude each other")
        return self


class Starts(StrictModel):
    """The initial weights: of each branch, under a head with random weights, or of a bundle or a finished run."""

    cnn: Start = Start()
    swin: Start = Start()
    bundle: WeightsPath | None = None
    head: Literal["kept", "new"] = Field("kept", description="whether the head of `bundle` is taken too, if it fits")

    @model_validator(mode="after")
    def _one_source(self) -> Starts:
        if self.bundle and (self.cnn != Start() or self.swin != Start()):
            raise ValueError("bundle: PATH fills both branches, so it excludes start.cnn and start.swin")
        if self.head == "new" and not self.bundle:
            raise ValueError("head: new is for bundle: PATH: without it, the head is new anyway")
        return self


STARTS = ("cnn", "swin")  # the keys of `Starts` that are of a branch


class LastUnits(StrictModel):
    """The last `last` blocks or stages of the CNN, and all layers behind them."""

    unit: Literal["block", "stage"] = "block"
    last: int = Field(ge=1, le=1000)


# The discriminator picks one form, so that an error is one sentence and not one for each form.
CnnSetting = Annotated[
    Annotated[Literal["frozen", "all"], Tag("<word>")] | Annotated[LastUnits, Tag("<last>")],
    Discriminator(lambda value: "<word>" if isinstance(value, str) else "<last>"),
]


def _teacher_of(value: Any) -> Any:
    if not isinstance(value, str | Path):
        raise ValueError("give cnn, or the folder of a bundle or a run")
    path = value if value == "cnn" else _path_of(value)
    return path.absolute() if isinstance(path, Path) else path  # so that a folder is never taken for the word


class Distil(StrictModel):
    """What a teacher teaches in a stage, beside the labels: its map to the transformer, or its logits to the model.

    The teacher is the model's own CNN, or the model in the folder of a bundle or a finished run. If the head is frozen
    in the stage, labels have no part in it, and the pictures of the folder or table `unlabelled` are drawn too.
    """

    teacher: Annotated[Literal["cnn"] | Path, BeforeValidator(_teacher_of)] = Field(alias="from")
    what: Literal["map", "logits"] = "map"
    weight: float = Field(1.0, gt=0, le=1e6)
    unlabelled: WeightsPath | None = None

    @model_validator(mode="after")
    def _has_what_is_taught(self) -> Distil:
        if self.teacher == "cnn" and self.what == "logits":
            raise ValueError("a CNN has no logits of its own: distil its map, or give the folder of a bundle or a run")
        return self


class Stage(StrictModel):
    """A number of epochs in which the same parameters train."""

    name: Name
    epochs: int = Field(ge=1, le=100_000)
    cnn: CnnSetting = "all"
    swin: Literal["frozen", "all"] = "all"
    head: Literal["frozen", "all"] = "all"
    distil: Distil | None = None

    @model_validator(mode="after")
    def _learns(self) -> Stage:
        if self.distil is not None and self.distil.what == "map" and self.swin == "frozen":
            raise ValueError("swin: frozen cannot learn from a map: let it train, or leave distil out")
        if self.head == "frozen" and (self.distil is None or self.distil.what != "map"):
            raise ValueError("head: frozen leaves the labels out, so that distil with what: map must teach the Swin")
        if self.head == "frozen" and self.cnn != "frozen":
            raise ValueError("head: frozen leaves the labels out, so that nothing teaches the CNN: use cnn: frozen too")
        if self.distil is not None and self.distil.unlabelled is not None and self.head != "frozen":
            raise ValueError("distil.unlabelled: these pictures have no labels for the head: use head: frozen")
        return self


PROGRESSIVE = (
    Stage(name="warmup", epochs=3, cnn="frozen"),
    Stage(name="main", epochs=27, cnn=LastUnits(unit="block", last=5)),
)


class Geometry(StrictModel):
    """Random geometric changes, drawn once for both branches, so that their tokens show the same places."""

    flip: bool = True
    rotation_degrees: float = Field(180.0, ge=0, le=180)
    translate: float = Field(0.1, ge=0, lt=1, description="largest shift, as a share of the side")
    scale: tuple[float, float] = Field((0.85, 1.2), description="smallest and largest factor")

    @field_validator("scale")
    @classmethod
    def _rising(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0.01 <= scale[0] <= scale[1] <= 100:
            raise ValueError("give two positive factors from 0.01 to 100, the smallest first")
        return scale


class Photometry(StrictModel):
    """Random changes of the colours and the content, drawn for each branch separately."""

    brightness: Strength = 0.2
    contrast: Strength = 0.2
    saturation: Strength = 0.2
    hue: float = Field(0.03, ge=0, le=0.5)
    blur: float = Field(0.0, ge=0, le=1, description="probability of a Gaussian blur")
    jpeg: float = Field(0.0, ge=0, le=1, description="probability of compression as JPEG")
    jpeg_quality: tuple[Quality, Quality] = Field((40, 95), description="lowest and highest quality")
    erasing: float = Field(0.0, ge=0, le=1, description="probability of one erased rectangle")

    @field_validator("jpeg_quality")
    @classmethod
    def _rising(cls, quality: tuple[int, int]) -> tuple[int, int]:
        if quality[0] > quality[1]:
            raise ValueError("give the lowest quality first")
        return quality


class Augmentation(StrictModel):
    """Augmentation of training pictures. The defaults of each branch follow what is usual for its architecture."""

    geometry: Geometry = Geometry()
    cnn: Photometry = Photometry()
    swin: Photometry = Photometry(brightness=0.3, contrast=0.3, saturation=0.3, blur=0.1, erasing=0.25)
    mixup_alpha: float = Field(
        0.2, ge=0, le=1000, description="parameter of the beta distribution; 0 switches MixUp off"
    )
    cutmix_alpha: float = Field(
        0.0, ge=0, le=1000, description="the same for CutMix; if both are on, each update uses one of them at random"
    )


class BranchDropout(StrictModel):
    """Probabilities that a training picture is answered without one of the two branches.

    A mean map takes the place of the branch's own. So the other branch learns to answer alone.
    """

    cnn: float = Field(0.0, ge=0, lt=1, description="of being answered without the CNN")
    swin: float = Field(0.0, ge=0, lt=1, description="of being answered without the transformer")

    @model_validator(mode="after")
    def _never_both(self) -> BranchDropout:
        if self.cnn + self.swin > 1:
            raise ValueError(f"cnn and swin are {self.cnn + self.swin:g} together: choose 1 or less")
        return self

    def __bool__(self) -> bool:
        return self.cnn + self.swin > 0


class Rates(StrictModel):
    """Peak learning rates. Norms and biases of all parts share one rate."""

    cnn: float = Field(1e-4, gt=0, le=1e30)
    swin: float = Field(1e-4, gt=0, le=1e30)
    head: float = Field(2e-4, gt=0, le=1e30, description="attention and classifier")
    norm_and_bias: float = Field(5e-5, gt=0, le=1e30)
    swin_layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor on all rates of the Swin from a layer to the one before"
    )


Imbalance = Literal["none", "class_weights", "balanced_sampling", "logit_adjustment"]


def _share_of(value: Any) -> str:
    return "<classes>" if isinstance(value, dict) else "<share>"


class Balance(StrictModel):
    """Draws in which the labels have given shares, in every part of train alike.

    `label` is the share of the rarer of two classes, or of each class that is named; others keep their proportions.
    With `within`, these are the shares among the pictures of each value of that column of the table.
    """

    label: Annotated[
        Annotated[Share, Tag("<share>")] | Annotated[dict[Name, Share], Field(min_length=1), Tag("<classes>")],
        Discriminator(_share_of),
    ]
    within: Name | None = None

    @field_validator("label")
    @classmethod
    def _normalised(cls, label: float | dict[str, float]) -> float | dict[str, float]:
        if not isinstance(label, dict):
            return label
        named = {normalised(name): share for name, share in label.items()}
        if len(named) < len(label):
            raise ValueError(f"{', '.join(map(ascii, label))} name one class twice: name each once")
        return named

    @property
    def column(self) -> str | None:
        """The name of the column as `Sample.columns` has it."""
        return None if self.within is None else column_key(self.within)


class Recipe(StrictModel):
    """All options of one training run.

    `batch_size` is the number of pictures per update, over all processes and accumulated parts.
    """

    name: Name
    seed: int = Field(0, ge=0, lt=2**63)
    model: ModelConfig = ModelConfig()
    start: Starts = Starts()
    stages: tuple[Stage, ...] = Field(PROGRESSIVE, min_length=1)
    augmentation: Augmentation = Augmentation()
    branch_dropout: BranchDropout = BranchDropout()
    rates: Rates = Rates()
    batch_size: int = Field(32, ge=1, le=1_000_000)
    accumulate: int = Field(1, ge=1, le=100_000, description="parts into which a process splits its share of a batch")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the updates with rising learning rates")
    weight_decay: float = Field(0.05, ge=0, le=1e6)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    imbalance: Imbalance = "none"
    balance: Balance | None = None
    count_by: Literal["picture", "group"] = Field(
        "picture", description="group: a group is drawn as often as a single picture, whatever its number of pictures"
    )
    epoch_pictures: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="draws of an epoch; null: the number of pictures in train",
    )
    leave_out: dict[Name, tuple[str, ...]] = Field(
        {}, description="columns of the table and their values whose pictures are kept for test, such as one clinic"
    )
    stretch: StretchRule = Field(
        None,
        description="how grey values become 0 to 255: from the range of the file's format (null), from each picture's "
        "smallest and largest value (found), or from a range such as [0, 4095]; the bundle reads pictures so too",
    )
    clip_norm: float = Field(1.0, gt=0, le=1e30)
    ema_decay: float = Field(0.99, ge=0, lt=1)
    batch_norm: Literal["frozen", "sync"] = Field(
        "frozen",
        description="frozen: keep the running statistics; sync: blocks that train use those of the whole batch",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="auto: fp32 on a CPU")
    val_share: float = Field(0.2, gt=0, lt=1, description="used if the data has no split of its own")
    calibration_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of train that is set aside for the trust part, which is fitted to val if it is 0; a split "
        "`calibration` that the data has is kept",
    )
    workers: int = Field(2, ge=0, le=256, description="processes that load pictures, for each training process")
    log_updates: int = Field(10, ge=1, le=1_000_000_000, description="updates between two lines in the log")
    checkpoint_updates: int = Field(
        200, ge=1, le=1_000_000_000, description="updates between two checkpoints inside an epoch"
    )
    keep_checkpoints: int = Field(2, ge=1, le=1_000_000)
    keep: Literal["last", "best"] = Field(
        "last", description="the weights of the run: of its end, or of the epoch with the best AUROC on val"
    )
    early_stopping: int = Field(
        0, ge=0, le=100_000, description="epochs without a better AUROC on val after which the run ends; 0: none"
    )

    @field_validator("leave_out", mode="before")
    @classmethod
    def _values(cls, columns: Any) -> Any:
        for column, values in columns.items() if isinstance(columns, dict) else ():
            texts = isinstance(values, list | tuple) and all(isinstance(each, str) and each.strip() for each in values)
            if not texts or not values:
                raise ValueError(f"{column}: give its values as a list of texts, such as [clinic B]")
        return {column: tuple(values) for column, values in columns.items()} if isinstance(columns, dict) else columns

    @model_validator(mode="after")
    def _one_balance(self) -> Recipe:
        if self.balance is not None and self.imbalance != "none":
            raise ValueError(f"balance and imbalance: {self.imbalance} both act against imbalance: choose one")
        if self.count_by == "group" and self.imbalance in ("class_weights", "logit_adjustment"):
            raise ValueError(
                f"count_by: group draws the classes in other shares than imbalance: {self.imbalance} reckons with: "
                "use balance or balanced_sampling with it"
            )
        return self

    @model_validator(mode="after")
    def _two_branches(self) -> Recipe:
        if self.branch_dropout and self.model.fusion in STARTS:
            raise ValueError(f"branch_dropout: fusion {self.model.fusion} has a single branch: leave it out")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: two stages share a name among {', '.join(names)}")
        if all(stage.head == "frozen" for stage in self.stages):
            raise ValueError(
                "stages: the head is frozen in all of them, so that it never learns: add a stage without it"
            )
        if len({path for stage in self.stages if stage.distil and (path := stage.distil.unlabelled)}) > 1:
            raise ValueError(
                "stages: distil.unlabelled names several folders: give the same in all stages that have it"
            )
        return self

    @property
    def unlabelled(self) -> Path | None:
        """The folder or table of the pictures without labels."""
        paths = (stage.distil.unlabelled for stage in self.stages if stage.distil is not None)
        return next((path for path in paths if path is not None), None)

    @property
    def teachers(self) -> list[Path]:
        """The folders of the bundles and runs that teach in any stage."""
        teachers = (stage.distil.teacher for stage in self.stages if stage.distil is not None)
        return [teacher for teacher in teachers if isinstance(teacher, Path)]

    @property
    def epochs(self) -> int:
        """The number of epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> Stage:
        """Return the stage of an epoch, counted from 0. Raises IndexError after the last one."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        raise IndexError(f"the recipe has {self.epochs} epochs")
