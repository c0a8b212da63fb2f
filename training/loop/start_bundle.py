"""Initial weights from a bundle, or from a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.models.cnnswin import CNNViTFusion
from training.data.samples import Sample
from training.loop.checkpoint_files import WeightsError
from training.loop.trained import check_unseen, read_trained
from training.recipe.config import Recipe


def load_start_bundle(
    model: CNNViTFusion, recipe: Recipe, classes: tuple[str, ...], path: Path, samples: Sequence[Sample]
) -> list[str]:
    """Load the weights of the bundle or the finished run in the folder `path` into a model of these classes.

    With the same classes and a head of the same sizes the model is filled whole; otherwise its head stays new. Returns
    sentences: which of both, and a warning if it is not known what the model learned from. Raises WeightsError if a
    backbone is not that of the recipe, if it learned from a picture of `samples` that is not for training, and what
    reading raises.
    """
    trained = read_trained(path, "start.bundle")
    warning = check_unseen(trained, samples, "start.bundle")
    further = [] if warning is None else [warning]
    theirs, tensors, own = trained.classes, trained.model.state_dict(), model.state_dict()
    heads = ({name: one[name].shape for name in one if name.startswith("head.")} for one in (own, tensors))
    same_head = next(heads) == next(heads)
    wanted = [name for name in own if not name.startswith("head.") or (same_head and theirs == classes)]
    for name in wanted:
        if name not in tensors or tensors[name].shape != own[name].shape:
            branch = name.partition(".")[0].partition("_")[0]
            raise WeightsError(
                f"start.bundle: {path} has no {name} {list(own[name].shape)}, so its backbones are not those of the "
                f"recipe: give it the same model.{branch}, with the same options and cut"
            )
    model.load_state_dict(own | {name: tensors[name] for name in wanted})
    if len(wanted) == len(own):
        return [f"start.bundle: the whole model of {path}", *further]
    why = "the recipe's head is another one" if theirs == classes else f"the classes there are {', '.join(theirs)}"
    return [f"start.bundle: the backbones of {path}; the head is new, since {why}", *further]
