"""What is timed in process: FusionLens, its own server asked by one client, and others on the same model and picture.

Each function builds one group of contestants, in a process of its own, from a `Case`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count, cycle

import numpy as np
import torch

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.explain.methods import METHODS
from app.pictures.decode import Limits
from app.predicting.prediction import Prediction, Upload
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from benchmarks.client import Client
from benchmarks.models import CLASS, Case, last_cnn_layer, prepared_picture, torch_model
from benchmarks.turns import Runs

EXPLAINED, BARE_OPENVINO, THEIRS = "explained prediction", "OpenVINO forward", "pytorch-grad-cam"
OPEN_PREDICT, POST_PREDICT = "open and predict", "POST /predict"
POST_GRADCAM, GET_GRADCAM = "POST /gradcam", "GET /gradcam"
FURTHER = "further explanation, "
METHOD = "gradcam"  # what others compute too
TORCH_FORWARD, CAPTUM, OWN_CNN_MAP = "torch forward", "captum LayerGradCam", "explained prediction, CNN branch alone"
COMPILED = "torch.compile forward"
FORWARDS = (TORCH_FORWARD, COMPILED, "ONNX Runtime forward", BARE_OPENVINO)
OTHER_CAMS = (THEIRS, CAPTUM, "torch-cam")
UNBOUNDED = (f"{FURTHER}integrated",)  # many passes through the head by its definition: timed, but without a goal


def fusionlens(case: Case) -> Runs:
    """A prediction, a prediction with its fused heatmap, and further explanations of a kept one by every method."""
    bundle = read_bundle(case.bundle)
    engine = load_engine(bundle, "openvino", cache=case.cache)
    predictor = Predictor(bundle, engine, Limits(), preview_side_px=1024)
    data = case.picture.read_bytes()
    upload = predictor.open(data)

    def predicted(picture: Upload, with_gradient: bool = False) -> Prediction:
        prediction, _ = predictor.predict(picture, with_gradient)
        return prediction

    kept = predicted(upload)

    def explained() -> object:
        prediction = predicted(upload, with_gradient=True)
        return prediction.logits, predictor.explain_one(prediction, HeatmapRequest(method=METHOD)).heatmap

    def cnn_branch() -> object:
        return predictor.explain_one(
            predicted(upload), HeatmapRequest(("cnn",), METHOD, bundle.manifest.classes[CLASS])
        ).heatmap

    def further(method: str) -> Callable[[], object]:
        targets = [None] if METHODS[method].class_agnostic else bundle.manifest.classes
        questions = cycle(
            [HeatmapRequest((view,), method, name) for view in predictor.capabilities.views for name in targets]
        )
        return lambda: predictor.explain_one(kept, next(questions)).heatmap

    return {
        EXPLAINED: explained,
        OWN_CNN_MAP: cnn_branch,
        OPEN_PREDICT: lambda: predicted(predictor.open(data)).logits,
    } | {FURTHER + method: further(method) for method in METHODS}


def over_http(case: Case, address: str) -> Runs:
    """The service at `address`, asked by one client that waits for each answer."""
    client = Client(address)
    picture = case.picture.read_bytes()
    stored = client.post("/predict", picture).json()["prediction_id"]
    asked, opacity = f"prediction_id={stored}&method={METHOD}", count(0.5, 1e-6)
    return {
        POST_PREDICT: lambda: len(client.post("/predict", picture).body),
        # Another opacity each time: what was asked before would be answered without any work.
        GET_GRADCAM: lambda: len(client.get(f"/gradcam?{asked}&alpha_max={next(opacity):.6f}").body),
        POST_GRADCAM: lambda: len(client.post(f"/gradcam?format=json&method={METHOD}", picture).body),
    }


def torch_forward(case: Case) -> Runs:
    """The module itself."""
    model, image = torch_model(case.bundle), prepared_picture(case)

    @torch.inference_mode()
    def run() -> object:
        return model(image).numpy()

    return {TORCH_FORWARD: run}


def torch_compiled(case: Case) -> Runs:
    """`torch.compile` with its default options."""
    model, image = torch.compile(torch_model(case.bundle)), prepared_picture(case)

    @torch.no_grad()
    def run() -> object:
        return model(image).numpy()

    run()
    return {COMPILED: run}


def onnx_runtime(case: Case) -> Runs:
    """The module through torch's exporter, all of ONNX Runtime's optimisations (its default), a thread a core."""
    import onnxruntime

    image = prepared_picture(case).contiguous()
    program = torch.onnx.export(torch_model(case.bundle), (image,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: image.numpy()}
    return {"ONNX Runtime forward": lambda: session.run(None, feed)[0]}


def bare_openvino(case: Case) -> Runs:
    """The module converted whole, with the hint that OpenVINO's documentation advises for one request at a time."""
    import openvino as ov

    image = prepared_picture(case).contiguous()
    graph = ov.convert_model(torch.export.export(torch_model(case.bundle), (image,)))
    # In float32 like everybody else: where a CPU has bfloat16, the hint alone would take it.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(graph, "CPU", options).create_infer_request()
    pixels = image.numpy()
    return {BARE_OPENVINO: lambda: np.array(next(iter(request.infer([pixels], share_inputs=True).values())))}


def grad_cam(case: Case) -> Runs:
    """pytorch-grad-cam as its documentation shows it, with one target layer."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, image = torch_model(case.bundle).requires_grad_(True), prepared_picture(case)
    cam = GradCAM(model=model, target_layers=[last_cnn_layer(model)])
    return {THEIRS: lambda: cam(image, [ClassifierOutputTarget(CLASS)])}


def captum(case: Case) -> Runs:
    """captum's LayerGradCam; it gives no logits, so that an answer would take another forward."""
    from captum.attr import LayerGradCam

    model, image = torch_model(case.bundle).requires_grad_(True), prepared_picture(case)
    method = LayerGradCam(model, last_cnn_layer(model))
    return {CAPTUM: lambda: method.attribute(image, target=CLASS).detach().numpy()[0, 0]}


def torch_cam(case: Case) -> Runs:
    """torch-cam's GradCAM, as its documentation shows it."""
    from torchcam.methods import GradCAM

    model, image = torch_model(case.bundle).requires_grad_(True), prepared_picture(case)
    extractor = GradCAM(model, target_layer=last_cnn_layer(model))
    return {"torch-cam": lambda: extractor(CLASS, model(image))[0].numpy()}


OTHERS: tuple[Callable[[Case], Runs], ...] = (
    torch_forward,
    torch_compiled,
    onnx_runtime,
    bare_openvino,
    grad_cam,
    captum,
    torch_cam,
)


def must_agree(answers: dict[str, object]) -> dict[str, float]:
    """How far the forwards' logits and captum's map are from torch's and from ours, as shares of the scale.

    Raises RuntimeError where two that should compute the same do not: their times could not be compared.
    """
    off = {name: _off(answers[name], answers[TORCH_FORWARD]) for name in FORWARDS[1:] if name in answers}
    off[CAPTUM] = _off(answers[CAPTUM], answers[OWN_CNN_MAP])
    if wrong := [name for name, share in off.items() if not share < 0.01]:
        raise RuntimeError(f"{', '.join(wrong)} computed something else: {off}")
    return off


def _off(found: object, expected: object) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())
