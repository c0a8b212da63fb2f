"""What a run says when its memory is too small, when its numbers are not finite, and when it is prolonged."""

from __future__ import annotations

from training.loop.optim import warmup_cosine
from training.recipe.config import Recipe


def prolonging(recipe: Recipe, epochs_before: int, update: int, updates: int) -> str:
    """Say what it means that a run had fewer epochs until `update`. It has `updates` updates now."""
    before = updates // recipe.epochs * epochs_before
    new, old = (
        warmup_cosine(min(update, total), int(recipe.warmup_share * total), total) for total in (updates, before)
    )
    return (
        f"prolonged from {epochs_before} to {recipe.epochs} epochs: from update {update} on, the learning rates are "
        f"those of a run of {updates} updates, {new:.2f} of their peaks instead of {old:.2f}; the updates before had "
        f"the rates of {before} updates, so the run does not end as one that had {recipe.epochs} epochs from its start"
    )


def gpu_too_small(recipe: Recipe, processes: int, reason: str) -> str:
    """Say that the GPU's memory is too small, and what is smaller."""
    pictures = recipe.batch_size // (recipe.accumulate * processes)
    return (
        f"the GPU's memory is too small for {pictures} pictures at once: start a run with a larger accumulate (--set "
        f"accumulate={2 * recipe.accumulate}), a smaller batch_size or a smaller model.image_size "
        f"({reason.splitlines()[0]})"
    )


def not_finite(loss: float, where: str, saved: str) -> str:
    """Say that the loss, or if that is finite the gradient, is not finite. `saved` is the file that shows it."""
    kind = f"the loss ({loss})" if loss != loss or abs(loss) == float("inf") else "the gradient"
    return f"{kind} is not finite {where}: lower the rates or check the pictures; {saved} has the weights and the batch"
