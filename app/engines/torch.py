"""The torch engine, on a CPU or a CUDA GPU. Gradients come from autograd, with the feature maps as leaves: no hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from app.bundles.manifest import MANIFEST, WEIGHTS
from app.bundles.reader import Bundle
from app.engines.protocol import HeadResult, TokenResult
from app.errors import BundleError
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from app.models.lifted_heads import lifted_head
from app.models.transformer_tokens import transformer_tokens
from app.shapes import Float, Float32, UInt8

GPU_BATCH = 16  # pictures in one pass on a GPU


class TorchEngine:
    """Runs a `CNNViTFusion` in float32 on `device`, by default the model's. It must be frozen and in eval mode.

    A model on another device is copied. The model that is given stays where and as it is.
    """

    name = "torch"
    version = str(torch.__version__)
    concurrency = 1

    def __init__(self, model: CNNViTFusion, device: torch.device | str | None = None) -> None:
        self._model = model if device is None else on_device(model, device)
        self.device = device_of(self._model)
        self.batch_size = GPU_BATCH if self.device.type == "cuda" else 1
        self._tokens = transformer_tokens(self._model)
        self.token_stages = self._tokens.heights if self._tokens else ()
        self.has_token_attention = self._tokens is not None and self._tokens.has_attention
        self._lifted = lifted_head(self._model.head)
        self.is_lifted = self._lifted is not None

    @torch.inference_mode()
    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
        """See `Engine.encode`."""
        # A permuted view of NHWC pictures is already channels-last, which is faster for convolutions on a CPU.
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        maps: FeatureMaps[Tensor] = self._model.encode(pixels.float() / 255)
        return maps.map(_numpy)

    @torch.inference_mode()
    def classify(self, maps: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, "b k"]:
        """See `Engine.classify`."""
        return _numpy(self._model.classify(self._leaves(maps))[0])

    def explain(self, maps: FeatureMaps[np.ndarray], target: Float[np.ndarray, "b k"]) -> HeadResult:
        """See `Engine.explain`."""
        return self._explain(maps, lambda logits: torch.from_numpy(target).to(logits))

    def answer(self, maps: FeatureMaps[np.ndarray], bias: Float[np.ndarray, " k"]) -> HeadResult:
        """See `Engine.answer`."""
        return self._explain(
            maps, lambda logits: one_hot((logits + torch.from_numpy(bias).to(logits)).argmax(dim=1), len(bias))
        )

    @torch.inference_mode()
    def path_evidence(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        positions: Float[np.ndarray, " nodes"],
        targets: Float[np.ndarray, "targets k"],
    ) -> FeatureMaps[np.ndarray]:
        """See `Engine.path_evidence`."""
        assert self._lifted is not None
        ends = self._of_one(maps), self._of_one(baseline)
        at, weights = self._tensor(positions), self._tensor(targets)
        return self._lifted.path_evidence(*ends, self._lifted.lift(ends[1]), at, weights).map(_numpy)

    @torch.inference_mode()
    def ablated_logits(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        groups: FeatureMaps[np.ndarray],
    ) -> Float32[np.ndarray, "all_groups k"]:
        """See `Engine.ablated_logits`."""
        assert self._lifted is not None
        ends = self._of_one(maps), self._of_one(baseline)
        numbers = groups.map(lambda channels: torch.tensor(channels, dtype=torch.int64, device=self.device))
        return _numpy(self._lifted.ablated_logits(*ends, self._lifted.lift(ends[1]), numbers))

    def compile_tokens(self) -> None:
        """See `Engine.compile_tokens`: here nothing is compiled."""

    def tokens(self, image: UInt8[np.ndarray, "h w 3"], gradient: Float[np.ndarray, "c gh gw"]) -> TokenResult:
        """See `Engine.tokens`."""
        assert self._tokens is not None
        found = self._tokens(torch.from_numpy(image[None]).to(self.device), self._tensor(gradient[None]))
        results = [_numpy(of_batch[0]) for of_batch in found]
        saliency = dict(zip(self.token_stages, results, strict=False))  # the attention is left over
        return TokenResult(saliency, results[-1] if self.has_token_attention else None)

    def _explain(self, maps: FeatureMaps[np.ndarray], weighting: Callable[[Tensor], Tensor]) -> HeadResult:
        with torch.enable_grad():
            leaves = self._leaves(maps, requires_grad=True)
            logits, attention = self._model.classify(leaves)
            score = (logits * weighting(logits.detach())).sum()
        sources = [*leaves.values()] if attention is None else [*leaves.values(), attention]
        gradients = [_numpy(gradient) for gradient in torch.autograd.grad(score, sources)]
        by_branch = FeatureMaps(dict(zip(leaves, gradients, strict=False)))  # the attention's gradient is left over
        if attention is None:
            return HeadResult(_numpy(logits), by_branch)
        return HeadResult(_numpy(logits), by_branch, _numpy(attention), gradients[-1])

    def _of_one(self, maps: FeatureMaps[np.ndarray]) -> FeatureMaps[Tensor]:
        """A batch of one item."""
        return maps.map(lambda values: self._tensor(values[None]))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def _leaves(self, maps: FeatureMaps[np.ndarray], requires_grad: bool = False) -> FeatureMaps[Tensor]:
        return maps.map(
            lambda values: torch.tensor(values, dtype=torch.float32, device=self.device, requires_grad=requires_grad)
        )


def device_of(model: CNNViTFusion) -> torch.device:
    """The device of a model, which has all of its parameters."""
    return next(model.parameters()).device


def on_device(model: CNNViTFusion, device: torch.device | str) -> CNNViTFusion:
    """The model itself if it is on the device, else a copy of it there."""
    if torch.empty(0, device=device).device == device_of(model):
        return model
    return copy.deepcopy(model).to(device)


def load_model(bundle: Bundle) -> CNNViTFusion:
    """Build the bundle's model with its weights, in eval mode and frozen.

    Raises BundleError if the architecture cannot be built, or if the weights do not match it exactly.
    """
    manifest = bundle.manifest
    size = (manifest.input.height_px, manifest.input.width_px)
    try:
        model = CNNViTFusion(len(manifest.classes), image_size=size, **manifest.architecture.model_dump())
    except ValueError as error:
        raise BundleError(MANIFEST, f"architecture: no model can be built from it ({error})") from error
    if model.map_shapes != manifest.map_shapes:
        raise BundleError(MANIFEST, f"map_shapes: the architecture has {dict(model.map_shapes)}")
    expected = model.state_dict()
    if missing := sorted(expected.keys() - bundle.tensors.keys()):
        raise BundleError(WEIGHTS, f"tensor {missing[0]} is missing ({len(missing)} in all)")
    if unexpected := sorted(bundle.tensors.keys() - expected.keys()):
        raise BundleError(WEIGHTS, f"tensor {unexpected[0]} is not part of the architecture ({len(unexpected)} in all)")
    for name, tensor in expected.items():
        if bundle.tensors[name].shape != tuple(tensor.shape):
            raise BundleError(
                WEIGHTS, f"tensor {name} has shape {bundle.tensors[name].shape}, expected {tuple(tensor.shape)}"
            )
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in bundle.tensors.items()}, strict=True)
    return model.eval().requires_grad_(False)


def _numpy(tensor: Tensor) -> Float32[np.ndarray, "..."]:
    array: Float32[np.ndarray, "..."] = tensor.detach().float().cpu().numpy()
    return np.ascontiguousarray(array)
