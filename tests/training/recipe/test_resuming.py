"""Which keys of a recipe may change on --resume."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.resume_table import PAGE, with_resume_table
from training.recipe.config import Recipe
from training.recipe.load import load_recipe
from training.recipe.resuming import RESUME_RULES, recipe_changes

RECIPE = load_recipe("smoke")
# One other value of each key.
OTHER: dict[str, Any] = {
    "name": "other",
    "seed": 1,
    "model": {"dim": 64},
    "start": {"cnn": {"pretrained": True}},
    "stages": [{"name": "one", "epochs": 9}],
    "augmentation": {"mixup_alpha": 0.9},
    "branch_dropout": {"cnn": 0.5},
    "rates": {"cnn": 0.5},
    "batch_size": 2,
    "accumulate": 2,
    "warmup_share": 0.9,
    "weight_decay": 0.9,
    "label_smoothing": 0.9,
    "imbalance": "class_weights",
    "balance": {"label": 0.5},
    "count_by": "group",
    "epoch_pictures": 7,
    "leave_out": {"source": ["a"]},
    "stretch": "found",
    "clip_norm": 9.0,
    "ema_decay": 0.1,
    "batch_norm": "sync",
    "precision": "bf16",
    "val_share": 0.9,
    "calibration_share": 0.9,
    "workers": 7,
    "log_updates": 7,
    "checkpoint_updates": 7,
    "keep_checkpoints": 7,
    "keep": "best",
    "early_stopping": 7,
}


def test_every_key_has_a_rule() -> None:
    assert RESUME_RULES.keys() == Recipe.model_fields.keys() == OTHER.keys()


@pytest.mark.parametrize("key", Recipe.model_fields)
def test_a_key_may_change_as_its_rule_says(key: str) -> None:
    given = Recipe.model_validate(RECIPE.model_dump() | {key: OTHER[key]})
    changes = recipe_changes(RECIPE, given)
    if RESUME_RULES[key].change == "yes":
        assert changes.refused == () and changes.allowed == (f"{key} {getattr(RECIPE, key)} → 7",)
    else:
        assert changes.allowed == () and {path.partition(".")[0] for path in changes.refused} == {key}


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ("stages.1.epochs=5", "stages.1.epochs 2 → 5"),
        ("stages.1.epochs=1", None),
        ("stages.0.epochs=5", None),
        ("stages.1.cnn=all", None),
    ],
)
def test_only_more_epochs_of_the_last_stage_prolong_a_run(change: str, allowed: str | None) -> None:
    changes = recipe_changes(RECIPE, load_recipe("smoke", [change]))
    assert changes.allowed == ((allowed,) if allowed else ())
    assert changes.refused == (() if allowed else ("stages",))


def test_the_documentation_has_the_rules() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_resume_table(page), "the rules have changed: run `make openapi` and commit"
    assert "| `workers` | yes |" in page
