"""How much is measured: all of it on a GPU, or next to nothing, to see that the program works."""

from __future__ import annotations

from dataclasses import dataclass

from app.bundles.manifest import Architecture
from benchmarks.cases import DEFAULT

TINY_ARCHITECTURE = Architecture(
    cnn="test_efficientnet",
    swin="swin_tiny_patch4_window7_224",
    cnn_options={},
    swin_options={"embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": 2},
    fusion="cross_attention",
    dim=16,
    heads=2,
    dropout=0.0,
)


@dataclass(frozen=True)
class Effort:
    """Sizes of everything that is measured.

    `architecture` and `side_px` are the model that has random weights, and `has_demo` says whether the bundle that
    comes with the project is measured as well. `batches` are those of the served pictures, and `compiled_batches` those
    for which `torch.compile` makes a program with `compiler`. A figure is the median of `rounds`, after `warmups`.
    `explanations` are made while memory is watched. An epoch of training has `epoch_pictures`, drawn from
    `drawn_pictures`, in batches of `batch_size` by `workers` processes.
    """

    name: str
    architecture: Architecture
    side_px: int
    has_demo: bool
    batches: tuple[int, ...]
    compiled_batches: tuple[int, ...]
    compiler: str
    rounds: int
    warmups: int
    explanations: int
    drawn_pictures: int
    epoch_pictures: int
    batch_size: int
    workers: int
    epochs_of_each: int


FULL = Effort(
    name="full",
    architecture=DEFAULT,
    side_px=224,
    has_demo=True,
    batches=(1, 2, 4, 8, 16, 32, 64),
    compiled_batches=(1, 16, 64),
    compiler="inductor",
    rounds=30,
    warmups=5,
    explanations=2000,
    drawn_pictures=192,
    epoch_pictures=1536,
    batch_size=64,
    workers=12,
    epochs_of_each=2,
)
TINY = Effort(
    name="tiny",
    architecture=TINY_ARCHITECTURE,
    side_px=64,
    has_demo=False,
    batches=(1, 2),
    compiled_batches=(2,),
    compiler="eager",  # dynamo traces, and nothing is compiled
    rounds=2,
    warmups=1,
    explanations=12,
    drawn_pictures=16,
    epoch_pictures=16,
    batch_size=4,
    workers=1,
    epochs_of_each=1,
)
EFFORTS = {effort.name: effort for effort in (FULL, TINY)}
