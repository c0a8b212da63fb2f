"""The same numbers as captum, pytorch-grad-cam and torch-cam, on the same torch model, for each branch.

The largest difference allowed. Raw: before scaling, and before the ReLU but for torch-cam, which has none without; as a
part of the map's largest magnitude, or "terms": 4e-6 of the sum of the magnitudes of the terms that add up to a cell.
Terms cancel in part, and how their sum is rounded depends on the processor and on the threads. Finished: as the library
returns it, after its ReLU, scaling and resizing.

| method      | pytorch-grad-cam            | torch-cam               | captum                                     |
| ----------- | --------------------------- | ----------------------- | ------------------------------------------ |
| gradcam     | terms, finished 1e-4        | terms, finished 1e-4    | LayerGradCam: terms                        |
| hirescam    | terms, finished 1e-4        | not there               | LayerGradientXActivation, summed: terms    |
| layercam    | terms, finished 1e-4        | terms, finished 1e-4    | not there                                  |
| xgradcam    | terms (a), finished (a)     | terms (a), finished (a) | not there                                  |
| eigencam    | raw 1e-5, but for sign (b)  | not there               | not there                                  |
| gradcam++   | raw 1e-3 (c)                | none (d)                | not there                                  |
| ablationcam | raw 1e-4 (e)                | not there               | FeatureAblation of the head: 1e-4 (f)      |
| integrated  | not there                   | not there               | IntegratedGradients of the head: 3e-4 (g)  |
| Shapley     | not there                   | not there               | ShapleyValues of the head: 1e-5            |

(a) Both add a small constant to a channel's sum, by which they divide; here there is none, and a channel that cancels
    to rounding has weight 0. Where a sum nearly cancels, the division makes rounding large: its terms count as often as
    the sum of the channel's magnitudes is larger than its sum. Finished, 1e-4 or what that makes of it.
(b) A principal component has no sign of its own. Here cells of large magnitude are positive; there, what LAPACK gives.
(c) On maps without negative values, at a score scaled up by 1000: 1e-6 is added there to terms of the order of the
    squared gradient, which is often smaller. On maps with negative values, sums here are over the positive cells.
(d) torch-cam 0.5 divides a copy of what it should divide, so that its weights are cubes of the gradient.
(e) On maps without negative values, with zeros for the reference, one channel at a time, and divided by the score.
    Where there are negative values, -1e7 is put in place of a channel there.
(f) The same groups and references; captum gives what each group's absence costs, of which the map is made.
(g) By another rule, which captum does not have. Both rules have enough nodes to be near the integral itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from captum.attr import FeatureAblation, IntegratedGradients, LayerGradCam, LayerGradientXActivation, ShapleyValues
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from app.explain.ablation import GROUPS, ablationcam
from app.explain.cam import gradcam_plus_plus
from app.explain.integrated import integrated_gradients
from app.explain.shapley import shapley_values
from app.models.feature_maps import Branch, FeatureMaps
from app.shapes import Float
from tests.support.bundles import BRANCHES
from tests.support.explained import Explained, demo, tiny

RAW, TERMS, FINISHED, CLASS = 1e-5, 4e-6, 1e-4, 0
ONE_HOT = (1.0, 0.0)
GRAD_CAM = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "eigencam": pytorch_grad_cam.EigenCAM,
}
TORCH_CAM: dict[str, Any] = {
    "gradcam": torchcam.methods.GradCAM,
    "layercam": torchcam.methods.LayerCAM,
    "xgradcam": torchcam.methods.XGradCAM,
}
each_branch = pytest.mark.parametrize("branch", BRANCHES)
each_model = pytest.mark.parametrize("case", [tiny, demo])


class AtTheCut(nn.Module):
    """The model with a layer at each map, channels first, where captum can look."""

    def __init__(self, case: Explained) -> None:
        super().__init__()
        self.model, self.cnn, self.swin = case.model, nn.Identity(), nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        maps = self.model.encode(image)
        return self.model.classify(FeatureMaps(cnn=self.cnn(maps.cnn), swin=self.swin(maps.transformer)))[0]


class OfOneMap(nn.Module):
    """The head as a model of one branch's map, which passes through `layer`; the other branch's map is fixed."""

    def __init__(self, case: Explained, branch: Branch) -> None:
        super().__init__()
        self.model, self.layer, self.branch = case.model, nn.Identity(), branch
        self.fixed = {name: torch.from_numpy(found)[None] for name, found in case.maps.items()}

    def forward(self, present: Tensor) -> Tensor:
        present = self.layer(present)
        maps = {name: fixed.expand(len(present), -1, -1, -1) for name, fixed in self.fixed.items()}
        return self.model.classify(FeatureMaps({**maps, self.branch: present}))[0]


def layer_of(case: Explained, branch: Branch) -> nn.Module:
    """The backbone's own last layer."""
    backbone = getattr(case.model.requires_grad_(True), branch)
    layer: nn.Module = backbone.bn2 if branch == "cnn" else backbone.norm
    return layer


def channels_first_of(branch: Branch) -> Callable[[Tensor], Tensor] | None:
    """What libraries must be told of timm's Swin, whose layers have channels last."""
    return None if branch == "cnn" else lambda tokens: tokens.permute(0, 3, 1, 2)


@cache
def grad_cam_of(case: Explained, branch: Branch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pytorch-grad-cam's finished map, and the activations and gradients that it took."""
    layer = layer_of(case, branch)
    with pytorch_grad_cam.GradCAM(case.model, [layer], channels_first_of(branch)) as cam:
        finished = cam(case.pixels, [ClassifierOutputTarget(CLASS)])[0]
        taken = cam.activations_and_grads
        return finished, taken.activations[0].numpy(), taken.gradients[0].numpy()


def allowed(case: Explained, method: str, branch: Branch, weights: Sequence[float]) -> Float[np.ndarray, "h w"]:
    """The difference allowed to each cell of a raw map, which is far less than the map's largest magnitude."""
    activation, gradient = np.abs(case.maps[branch]), np.abs(case.attribution_input(weights).gradient()[branch])
    match method:
        case "gradcam":
            terms = activation * gradient.mean(axis=(1, 2), keepdims=True)
        case "hirescam" | "layercam":
            terms = activation * gradient
        case _:
            magnitude = activation.sum(axis=(1, 2), keepdims=True)
            total = np.abs(case.maps[branch].sum(axis=(1, 2), keepdims=True, dtype=np.float64))
            first_order = (activation * gradient).sum(axis=(1, 2), keepdims=True)
            cancels = total <= 1e-6 * magnitude
            terms = activation * np.where(cancels, 0, first_order * magnitude / np.where(cancels, 1, total) ** 2)
    difference = np.asarray(TERMS * terms.sum(axis=0))
    assert difference.max() < 0.01 * np.abs(case.heatmaps(method, weights)[branch]).max()
    return difference


def zero_to_one(heatmap: np.ndarray, epsilon: float) -> np.ndarray:
    """Both libraries' scaling, with the constant that they add to a maximum of zero and to any other."""
    shifted = heatmap - heatmap.min()
    return np.asarray(shifted / (epsilon + shifted.max()))


def assert_within(ours: np.ndarray, theirs: np.ndarray, allowed: Float[np.ndarray, "h w"]) -> None:
    """Equal to within what is allowed to each cell."""
    assert ours.shape == theirs.shape and (np.abs(ours - theirs) <= allowed).all()


def assert_same(ours: Float[np.ndarray, "..."], theirs: Float[np.ndarray, "..."], part: float) -> None:
    """Equal to within a part of the largest magnitude, which is not nothing."""
    assert ours.shape == theirs.shape and (largest := np.abs(theirs).max()) > 0
    assert np.abs(ours - theirs).max() <= part * largest


@each_model
@each_branch
@pytest.mark.parametrize("method", GRAD_CAM)
def test_raw_maps_are_those_of_pytorch_grad_cam(case: Callable[[], Explained], branch: Branch, method: str) -> None:
    _, activations, gradients = grad_cam_of(case(), branch)
    layer = layer_of(case(), branch)
    with GRAD_CAM[method](case().model, [layer]) as cam:
        theirs = cam.get_cam_image(case().pixels, layer, [], activations, gradients, False)[0]
    ours = case().heatmaps(method, ONE_HOT)[branch]
    if method == "eigencam":
        assert_same(ours, theirs * np.sign((ours * theirs).sum()), RAW)
    else:
        assert_within(ours, theirs, allowed(case(), method, branch, ONE_HOT))


@each_branch
@pytest.mark.parametrize("method", sorted(GRAD_CAM.keys() - {"eigencam"}))
@pytest.mark.parametrize("target", [0, 1])
def test_finished_maps_are_those_of_pytorch_grad_cam(branch: Branch, method: str, target: int) -> None:
    case = tiny()
    with GRAD_CAM[method](case.model, [layer_of(case, branch)], channels_first_of(branch)) as cam:
        theirs = cam(case.pixels, [ClassifierOutputTarget(target)])[0]
    weights = np.eye(2)[target].tolist()
    ours = case.heatmaps(method, weights)[branch]
    finished = finished_as_pytorch_grad_cam(ours, case)
    assert np.abs(finished - theirs).max() <= finished_part(ours, allowed(case, method, branch, weights))


@each_branch
def test_finished_maps_of_the_demo_are_those_of_pytorch_grad_cam(branch: Branch) -> None:
    theirs, _, _ = grad_cam_of(demo(), branch)
    assert theirs.max() > 0.9
    ours = finished_as_pytorch_grad_cam(demo().heatmaps("gradcam", ONE_HOT)[branch], demo())
    assert np.abs(ours - theirs).max() <= FINISHED


def finished_part(raw: np.ndarray, allowed: Float[np.ndarray, "h w"]) -> float:
    """The difference allowed to a finished map, whose scale is the largest positive value of the raw one."""
    return max(FINISHED, 2 * float(allowed.max()) / float(raw.max()))


def finished_as_pytorch_grad_cam(heatmap: np.ndarray, case: Explained) -> np.ndarray:
    height, width = case.model.image_size
    scaled = zero_to_one(np.maximum(heatmap, 0), 1e-7)
    return zero_to_one(np.maximum(cv2.resize(scaled, (width, height)), 0), 1e-7)


@each_branch
@pytest.mark.parametrize(("case", "method"), [*((tiny, method) for method in TORCH_CAM), (demo, "gradcam")])
def test_maps_are_those_of_torch_cam(case: Callable[[], Explained], branch: Branch, method: str) -> None:
    for target in (0, 1):
        weights = np.eye(2)[target].tolist()
        ours, within = case().heatmaps(method, weights)[branch], allowed(case(), method, branch, weights)
        with TORCH_CAM[method](
            case().model, layer_of(case(), branch), reshape_transform=channels_first_of(branch)
        ) as cam:
            scores = case().model(case().pixels)
            raw = cam(target, scores, normalized=False, retain_graph=True)[0][0].numpy()
            finished = cam(target, scores)[0][0].numpy()
        assert_within(np.maximum(ours, 0), raw, within)
        assert np.abs(zero_to_one(np.maximum(ours, 0), 1e-8) - finished).max() <= finished_part(ours, within)


@each_model
@each_branch
def test_gradcam_is_that_of_captum(case: Callable[[], Explained], branch: Branch) -> None:
    model = AtTheCut(case())
    found = LayerGradCam(model, getattr(model, branch)).attribute(case().pixels.requires_grad_(), target=CLASS)
    ours = case().heatmaps("gradcam", ONE_HOT)[branch]
    assert_within(ours, found[0, 0].detach().numpy(), allowed(case(), "gradcam", branch, ONE_HOT))


@each_branch
def test_hirescam_is_the_sum_of_captums_gradient_times_activation(branch: Branch) -> None:
    model = AtTheCut(tiny())
    attribution = LayerGradientXActivation(model, getattr(model, branch))
    found = attribution.attribute(tiny().pixels.requires_grad_(), target=CLASS)
    ours = tiny().heatmaps("hirescam", ONE_HOT)[branch]
    assert_within(ours, found[0].sum(dim=0).detach().numpy(), allowed(tiny(), "hirescam", branch, ONE_HOT))


def of_the_head(case: Explained) -> tuple[Callable[[Tensor, Tensor], Tensor], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The head as captum takes it, the picture's maps and the mean maps."""

    def logits(cnn: Tensor, swin: Tensor) -> Tensor:
        return case.model.classify(FeatureMaps(cnn=cnn, swin=swin))[0]

    here, absent = ({b: torch.from_numpy(maps[b])[None] for b in BRANCHES} for maps in (case.maps, case.baseline))
    return logits, tuple(here.values()), tuple(absent.values())


@each_model
def test_integrated_gradients_are_those_of_captum(case: Callable[[], Explained]) -> None:
    logits, maps, reference = of_the_head(case())
    found = IntegratedGradients(logits).attribute(
        maps, reference, target=CLASS, n_steps=128, method="gausslegendre", internal_batch_size=128
    )
    ours = integrated_gradients(case().attribution_input(ONE_HOT), nodes=(63,)).heatmaps
    for branch, theirs in zip(BRANCHES, found, strict=True):
        assert_same(ours[branch], theirs[0].sum(dim=0).detach().numpy(), 3e-4)


@each_model
def test_the_branches_shapley_values_are_those_of_captum(case: Callable[[], Explained]) -> None:
    logits, maps, reference = of_the_head(case())
    masks = tuple(torch.full_like(present, number, dtype=torch.long) for number, present in enumerate(maps))
    found = ShapleyValues(logits).attribute(maps, reference, target=CLASS, feature_mask=masks)
    ours = shapley_values(case().attribution_input(ONE_HOT)).by_branch
    theirs = [float(branch.flatten()[0]) for branch in found]
    assert_same(np.array([ours[branch] for branch in BRANCHES]), np.array(theirs), RAW)


@each_branch
def test_grad_cam_plus_plus_is_that_of_pytorch_grad_cam_on_maps_without_negative_values(branch: Branch) -> None:
    _, activations, gradients = grad_cam_of(tiny(), branch)
    activations, gradients = np.maximum(activations, 0), 1000 * gradients
    layer = layer_of(tiny(), branch)
    with pytorch_grad_cam.GradCAMPlusPlus(tiny().model, [layer]) as cam:
        theirs = cam.get_cam_image(tiny().pixels, layer, [], activations, gradients, False)
    assert_same(gradcam_plus_plus(activations, gradients), theirs, 1e-3)


@each_branch
def test_ablation_of_single_channels_is_that_of_pytorch_grad_cam_on_maps_without_negative_values(
    branch: Branch,
) -> None:
    case = tiny()
    maps = {**case.maps, branch: np.maximum(case.maps[branch], 0)}
    nothing = {name: np.zeros_like(present) for name, present in maps.items()}
    picture = case.attribution_input(ONE_HOT, maps, nothing)
    model, present = OfOneMap(case, branch).eval(), torch.from_numpy(maps[branch])[None]
    with pytorch_grad_cam.AblationCAM(model, [model.layer]) as cam:
        target = ClassifierOutputTarget(CLASS)
        theirs = cam.get_cam_image(present, model.layer, [target], maps[branch][None], None, False)[0]
    (score,) = picture.score.values({name: found[None] for name, found in maps.items()})
    ours = ablationcam(picture, groups=len(maps[branch])).heatmaps[branch] / score
    assert_same(ours, theirs, 1e-4)


def test_ablation_by_groups_is_made_of_what_captums_feature_ablation_finds() -> None:
    case = tiny()
    picture = case.attribution_input(ONE_HOT)
    logits, maps, reference = of_the_head(case)
    gradient, masks, losses, first = picture.gradient(), [], {}, 0
    for branch in BRANCHES:
        loss = (gradient[branch] * (case.maps[branch] - case.baseline[branch])).sum(axis=(1, 2))
        losses[branch] = loss
        group = np.empty(len(loss), dtype=np.int64)
        for number, channels in enumerate(np.array_split(np.argsort(loss), GROUPS)):
            group[channels] = first + number
        masks.append(torch.from_numpy(group)[None, :, None, None].expand(1, -1, *case.maps[branch].shape[1:]))
        first += GROUPS
    found = FeatureAblation(logits).attribute(maps, reference, target=CLASS, feature_mask=tuple(masks))
    ours = ablationcam(picture).heatmaps
    for branch, lost, mask, present in zip(BRANCHES, found, masks, maps, strict=True):
        group = mask[0, :, 0, 0].numpy()
        besides = lost[0, :, 0, 0].detach().numpy() - np.bincount(group, losses[branch])[group]
        weights = losses[branch] + besides / np.bincount(group)[group]
        assert_same(ours[branch], np.einsum("c,chw->hw", weights, present[0].numpy()), 1e-4)
