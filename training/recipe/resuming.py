"""Which keys of a recipe may change when its run is resumed, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from training.recipe.config import Recipe

_SHAPES = "it shapes every update, or what is measured of it"
_FREE_LOADING = "a picture and its views depend on their place in the run alone"


@dataclass(frozen=True)
class ResumeRule:
    """Whether a key may change on `--resume`, and why. `more` stands for more epochs of the last stage."""

    change: Literal["yes", "no", "more"]
    why: str


# Every key of a recipe has a rule, and docs/reference/recipe.md shows this table.
RESUME_RULES: dict[str, ResumeRule] = {
    "name": ResumeRule("no", "it names the run in trackers and in its bundle"),
    "seed": ResumeRule("no", "order, views, mixing, dropout and the split are drawn from it"),
    "model": ResumeRule("no", "the weights of the checkpoint are this model's"),
    "start": ResumeRule("no", "it says where the first weights came from; a checkpoint has the run's own"),
    "stages": ResumeRule("more", "the last stage may have more epochs: the run is prolonged"),
    "augmentation": ResumeRule("no", _SHAPES),
    "branch_dropout": ResumeRule("no", _SHAPES),
    "rates": ResumeRule("no", _SHAPES),
    "batch_size": ResumeRule("no", "the number of updates in an epoch depends on it"),
    "accumulate": ResumeRule("no", "dropout and drop-path are drawn for each part, by its number"),
    "warmup_share": ResumeRule("no", _SHAPES),
    "weight_decay": ResumeRule("no", _SHAPES),
    "label_smoothing": ResumeRule("no", _SHAPES),
    "imbalance": ResumeRule("no", _SHAPES),
    "balance": ResumeRule("no", _SHAPES),
    "count_by": ResumeRule("no", _SHAPES),
    "epoch_pictures": ResumeRule("no", "the number of updates in an epoch depends on it"),
    "leave_out": ResumeRule("no", "the split was made with it"),
    "stretch": ResumeRule("no", _SHAPES),
    "clip_norm": ResumeRule("no", _SHAPES),
    "ema_decay": ResumeRule("no", _SHAPES),
    "batch_norm": ResumeRule("no", _SHAPES),
    "precision": ResumeRule("no", _SHAPES),
    "val_share": ResumeRule("no", "the split was made with it"),
    "calibration_share": ResumeRule("no", "the split was made with it"),
    "workers": ResumeRule("yes", _FREE_LOADING),
    "log_updates": ResumeRule("yes", "the log has more or fewer lines from there on; the weights are the same"),
    "checkpoint_updates": ResumeRule("yes", "checkpoints are written at other updates; the weights are the same"),
    "keep": ResumeRule("no", "a checkpoint has the best weights only if they were to be kept"),
    "early_stopping": ResumeRule("no", "it says when the run ends"),
    "keep_checkpoints": ResumeRule("yes", "more or fewer files are kept; the weights are the same"),
}


@dataclass(frozen=True)
class RecipeChanges:
    """How a recipe differs from that of the run: what is `allowed`, as `key old → new`, and the keys `refused`."""

    allowed: tuple[str, ...]
    refused: tuple[str, ...]


def recipe_changes(existing: Recipe, given: Recipe) -> RecipeChanges:
    """Compare the recipe of a run with the one that is given to resume it."""
    allowed, refused = [], []
    for path, old, new in _differences(existing.model_dump(mode="json"), given.model_dump(mode="json")):
        rule = RESUME_RULES[path.partition(".")[0]]
        if rule.change == "yes":
            allowed.append(f"{path} {old} → {new}")
        elif rule.change == "more" and (prolonged := _prolonged(existing, given)):
            allowed.append(prolonged)
        else:
            refused.append(path)
    return RecipeChanges(tuple(allowed), tuple(refused))


def result_changes(existing: Recipe, given: Recipe) -> tuple[str, ...]:
    """Return the keys in which two recipes differ and on which the result of a whole run depends.

    The number of epochs is among them: a run that is prolonged does not end like one that was as long from its start.
    """
    differences = _differences(existing.model_dump(mode="json"), given.model_dump(mode="json"))
    return tuple(path for path, _, _ in differences if RESUME_RULES[path.partition(".")[0]].change != "yes")


def resume_table() -> str:
    """The rules as a table in Markdown. Keys with the same rule share a row."""
    words = {"yes": "yes", "no": "no", "more": "more epochs"}
    keys: dict[ResumeRule, list[str]] = {}
    for key, rule in RESUME_RULES.items():
        keys.setdefault(rule, []).append(f"`{key}`")
    order = sorted(keys, key=lambda rule: ["yes", "more", "no"].index(rule.change))
    rows = [f"| {', '.join(keys[rule])} | {words[rule.change]} | {rule.why} |" for rule in order]
    return "\n".join(["", "| keys | may change | why |", "| --- | --- | --- |", *rows, "", ""])


def _prolonged(existing: Recipe, given: Recipe) -> str | None:
    """The change as text if the stages differ in nothing but more epochs of the last one."""
    *earlier, last = existing.stages
    longer = given.stages[-1]
    if (*earlier, last.model_copy(update={"epochs": longer.epochs})) != given.stages or longer.epochs < last.epochs:
        return None
    return f"stages.{len(earlier)}.epochs {last.epochs} → {longer.epochs}"


def _differences(existing: Any, given: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path and both values of each key that differs."""
    if isinstance(existing, dict) and isinstance(given, dict):
        for key in sorted(existing.keys() | given.keys()):
            yield from _differences(existing.get(key), given.get(key), f"{path}.{key}")
    elif existing != given:
        yield path.removeprefix("."), existing, given
