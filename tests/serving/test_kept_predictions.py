"""A prediction that is kept has arrays of its own, and keeps nothing else of its batch in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.engines.protocol import EngineKind
from app.pictures.decode import Limits
from app.predicting.prediction import Prediction
from app.predicting.predictor import Predictor
from app.serving.decoder_process import DecoderProcess
from app.serving.decoders import DecoderOptions
from tests.support.asking import png_bytes


def arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    """Every array of a prediction, by its name."""
    found = {"logits": prediction.logits, "image": prediction.upload.image}
    found |= {f"{branch} map": values for branch, values in prediction.maps.items()}
    return found | {f"{branch} gradient": values for branch, values in (prediction.gradient or {}).items()}


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_predictions_of_one_pass_share_no_memory(kind: EngineKind, with_gradient: bool, tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    predictor = Predictor(bundle, load_engine(bundle, kind), Limits(), 64)
    uploads = [predictor.open(png_bytes(90 + n, 64)) for n in range(4)]
    predictions = [prediction for prediction, _ in predictor.predict_batch(uploads, with_gradient)]
    for prediction in predictions:
        found = arrays(prediction)
        assert len(found) == (6 if with_gradient else 4)
        assert [name for name, values in found.items() if values.base is not None] == []
    whole = sum(values.nbytes for prediction in predictions for values in arrays(prediction).values())
    assert sum(prediction.nbytes for prediction in predictions) >= whole


def test_a_model_input_from_another_process_keeps_no_preview_in_memory(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    options = Predictor(bundle, load_engine(bundle, "openvino"), Limits(), 64).open_options
    process = DecoderProcess(768_000_000, 20.0, DecoderOptions.program)
    try:
        process.wait_until_ready()
        assert process.open(png_bytes(), options).image.base is None
    finally:
        process.close()
