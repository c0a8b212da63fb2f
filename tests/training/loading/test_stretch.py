"""The rule for grey values is the same in training, in evaluation, and where the bundle is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.pictures.bit_depth import Stretch
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from tests.support.bundles import describe, tiny_model, tiny_reference
from tests.support.pictures import png_of
from training.data.samples import Sample
from training.export.export import write_bundle
from training.loading.augment import TwoViews
from training.loading.forward import prepared_batches
from training.loading.views import EvaluationSet, TrainingSet
from training.recipe.config import Augmentation, Geometry, Photometry, RecipeError
from training.recipe.load import load_recipe

STILL = Augmentation(
    geometry=Geometry(flip=False, rotation_degrees=0, translate=0, scale=(1, 1)),
    cnn=Photometry(brightness=0, contrast=0, saturation=0, hue=0),
    swin=Photometry(brightness=0, contrast=0, saturation=0, hue=0),
)


COLOUR_TYPES = {"grey": (0, 1), "grey with alpha": (4, 2), "RGB": (2, 3), "RGB with alpha": (6, 4)}  # of a PNG


@pytest.mark.parametrize("form", COLOUR_TYPES)
@pytest.mark.parametrize("stretch", [None, "found", (0, 4095)])
def test_training_sees_what_the_service_sees(tmp_path: Path, stretch: Stretch, form: str) -> None:
    colour_type, count = COLOUR_TYPES[form]
    samples_of_pixel = np.repeat(np.random.default_rng(0).integers(300, 4096, (96, 96, 1)), count, axis=-1)
    if "alpha" in form:
        samples_of_pixel[..., -1] = 65_535
    path = tmp_path / "ct.png"
    path.write_bytes(png_of(samples_of_pixel, 16, colour_type))
    model = tiny_model()
    write_bundle(model, tmp_path / "bundle", describe(), tiny_reference(model), {}, stretch)
    bundle = read_bundle(tmp_path / "bundle")
    served = Predictor(bundle, load_engine(bundle, "torch"), Limits(), 64).open(path.read_bytes()).image
    assert bool(served.max() > 200) is (stretch is not None)
    samples, size = [Sample(path, "a", None, None, None)], (64, 64)
    np.testing.assert_array_equal(EvaluationSet(samples, size, stretch)[0].permute(1, 2, 0).numpy(), served)
    [batch] = prepared_batches(samples, size, stretch)
    np.testing.assert_array_equal(batch[0].permute(1, 2, 0).numpy(), served)
    trained = TrainingSet(samples, [0], TwoViews(STILL, size), size, 0, stretch)[(0, 0, 0)]
    assert np.abs(trained[0].permute(1, 2, 0).numpy().astype(int) - served).mean() < 1


@pytest.mark.parametrize("text", ["[4095, 0]", "[0, 70000]", "widest", "[1, 2, 3]"])
def test_a_recipe_with_a_wrong_rule_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="stretch"):
        load_recipe("smoke", [f"stretch={text}"])


def test_a_recipe_can_declare_the_rule() -> None:
    assert load_recipe("smoke", ["stretch=[0, 4095]"]).stretch == (0, 4095)
    assert load_recipe("smoke", ["stretch=found"]).stretch == "found"
