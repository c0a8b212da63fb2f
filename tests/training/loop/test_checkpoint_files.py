"""Checkpoints that others wrote: what is a backbone's is found, what is left out is said, what is missing is named."""

from __future__ import annotations

import argparse
import gzip
import math
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from app.models.backbones import cnn_backbone
from tests.support.bundles import tiny_architecture, tiny_model
from training.loop.pretrained import WeightsError, load_backbone

CNN = "test_efficientnet"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def seven() -> Tensors:
    """The weights of a CNN with a classifier for seven classes."""
    weights: Tensors = timm.create_model(CNN, num_classes=7).state_dict()
    return weights


@pytest.fixture
def backbone() -> nn.Module:
    model: nn.Module = timm.create_model(CNN, num_classes=0)
    return model


@pytest.fixture(params=[None, 16], ids=["whole", "cut"])
def cut_or_not(request: pytest.FixtureRequest) -> nn.Module:
    """A backbone whole, and one without its last stage."""
    model: nn.Module = cnn_backbone(CNN, (64, 64), {}, request.param)[0]
    return model


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def inside(key: str) -> Callable[[Tensors], Any]:
    return lambda weights: {key: weights}


def headless(weights: Tensors) -> Tensors:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}


BESIDE = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: {"step": torch.ones(1)}}}}


def averaged_in(name: str) -> Callable[[Tensors], Any]:
    """A file with other weights and, in an entry of this name, the averaged ones."""
    return lambda weights: {"model": {other: tensor + 1 for other, tensor in weights.items()}, name: weights}


FORMS: dict[str, Callable[[Tensors], Any]] = {
    "bare": dict,
    "headless": headless,
    **{f"in {key}": inside(key) for key in ("model", "state_dict", "model_state_dict", "net")},
    **{
        f"under {name}": prefixed(name)
        for name in ("module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.")
    },
    "with much beside": lambda weights: {"state_dict": prefixed("module.")(weights), **BESIDE},
    "deep": lambda weights: {"checkpoint": {"model": prefixed("encoder.")(headless(weights))}, **BESIDE},
    "deeper": lambda weights: {"a": {"b": {"c": {"d": {"e": {"f": weights}}}}}},
    "in a list": lambda weights: {"models": [{"name": "mine"}, {"weights": weights}]},
    **{
        f"also in {name}": averaged_in(name)
        for name in ("model_ema", "modelEMA", "emaModel", "ema", "EMAModel", "state_dict_ema", "averaged_model")
    },
    "twice the same": lambda weights: {"model": weights, "best": weights},
    "beside another part": lambda weights: prefixed("cnn.")(weights) | {"head.weight": torch.ones(2, 2)},
    "in fp64": lambda weights: {name: t.double() if t.is_floating_point() else t for name, t in weights.items()},
    "without counters": lambda weights: {n: t for n, t in weights.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_backbone_is_found_in_whatever_form_it_is_kept(
    form: str, tmp_path: Path, seven: Tensors, cut_or_not: nn.Module
) -> None:
    torch.save(FORMS[form](seven), tmp_path / "x.pth")
    before = {name: tensor.clone() for name, tensor in cut_or_not.state_dict().items()}
    sentence = load_backbone(cut_or_not, CNN, tmp_path / "x.pth")
    for name, tensor in cut_or_not.state_dict().items():
        torch.testing.assert_close(tensor, before[name] if "num_batches" in name else seven[name], rtol=0, atol=0)
    loaded = len(before) - sum("num_batches" in name for name in before) * (form == "without counters")
    assert sentence.startswith(f"{loaded} tensors from x.pth")
    has_classifier = form not in ("headless", "deep")
    assert ("the file has 7 classes" in sentence) == has_classifier
    if len(before) == len(headless(seven)):  # otherwise there is much more to name
        assert all(key in sentence for key in BESIDE) == (form in ("with much beside", "deep"))
    assert "order" not in sentence


def test_what_is_left_out_is_said(tmp_path: Path, seven: Tensors, backbone: nn.Module) -> None:
    safetensors.torch.save_file(seven, tmp_path / "x.safetensors")
    assert load_backbone(backbone, CNN, tmp_path / "x.safetensors") == (
        f"{len(seven) - 2} tensors from x.safetensors; left out: classifier.bias, classifier.weight "
        "(the file has 7 classes)"
    )


def test_our_own_run_can_be_a_start(tmp_path: Path) -> None:
    model, options = tiny_model(seed=5), tiny_architecture().swin_options | {"img_size": (64, 64)}
    safetensors.torch.save_model(model, str(tmp_path / "ema.safetensors"))
    for branch, name, of_branch in (("cnn", CNN, {}), ("swin", tiny_architecture().swin, options)):
        other = timm.create_model(name, num_classes=0, **of_branch)
        assert f"prefix {branch}." in load_backbone(other, name, tmp_path / "ema.safetensors", of_branch)
        expected = getattr(model, branch).state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in other.state_dict().items())


def test_the_format_of_the_original_swin_is_read(tmp_path: Path) -> None:
    """It has each downsampling at the end of a stage, and tables that timm computes."""
    options = {**tiny_architecture().swin_options, "img_size": (64, 64)}
    source = timm.create_model(tiny_architecture().swin, num_classes=3, **options).state_dict()
    original = {
        re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name): tensor
        for name, tensor in source.items()
    }
    original = {name.replace("head.fc.", "head."): tensor for name, tensor in original.items()}
    original["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4)
    torch.save({"model": original}, tmp_path / "swin.pth")
    swin = timm.create_model(tiny_architecture().swin, num_classes=0, **options)
    assert "converted by timm" in load_backbone(swin, tiny_architecture().swin, tmp_path / "swin.pth", options)
    assert all(torch.equal(tensor, source[name]) for name, tensor in swin.state_dict().items())


def test_names_that_say_another_part_are_not_taken_by_order(
    tmp_path: Path, seven: Tensors, backbone: nn.Module
) -> None:
    """Weight and bias of a norm have one shape: only their names tell them apart."""
    names = {name: name.replace("weight", "beta").replace("bias", "gamma") for name in seven}
    torch.save({f"enc/{names[name].replace('.', '/')}": tensor for name, tensor in seven.items()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError):
        load_backbone(backbone, CNN, tmp_path / "x.pth")


def test_other_names_are_taken_by_order_and_shape_and_that_is_said(
    tmp_path: Path, seven: Tensors, cut_or_not: nn.Module
) -> None:
    torch.save({f"w{number}": tensor for number, tensor in enumerate(seven.values())}, tmp_path / "x.pth")
    sentence = load_backbone(cut_or_not, CNN, tmp_path / "x.pth")
    assert "by order and shape, since no name is timm's; left out: " in sentence
    assert all(torch.equal(tensor, seven[name]) for name, tensor in cut_or_not.state_dict().items())


def without(*names: str) -> Callable[[Tensors], Any]:
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


def with_changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Any]:
    return lambda weights: weights | {name: change(weights[name])}


def with_one(value: float) -> Callable[[Tensor], Tensor]:
    """The last value of a tensor is another."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


NAN = with_one(math.nan)
UNFIT: list[tuple[str, Callable[[Tensors], Any], str]] = [
    ("one is missing", without("conv_stem.weight"), r"does not hold all weights .*it lacks conv_stem\.weight"),
    ("renamed in part", lambda w: {n.replace("bn1", "norm1"): t for n, t in w.items()}, r"lacks bn1\.weight.* more"),
    ("another shape", with_changed("conv_stem.weight", lambda t: t[:, :1]), r"conv_stem\.weight is float32 \[\d+, 1"),
    ("another kind", with_changed("conv_stem.weight", lambda t: t.to(torch.int8)), r"conv_stem\.weight is int8"),
    ("another model", lambda _: timm.create_model("test_resnet").state_dict(), r"conv_stem"),
    ("nothing of it", lambda _: {"a.b": torch.ones(1)}, r"it has a\.b, where timm has conv_stem\.weight"),
    ("no tensors", lambda _: {"epoch": 3, "args": {"lr": 0.1}}, "holds no named tensors"),
    ("empty", lambda _: {}, "holds no named tensors"),
    ("a list", lambda w: list(w.values()), "holds a list, not named tensors"),
    ("a tensor", lambda _: torch.ones(3), "holds a Tensor, not named tensors"),
    ("NaN", with_changed("bn1.bias", lambda t: t * math.nan), r"not finite, NaN or infinity, in bn1\.bias"),
    ("one infinity", with_changed("conv_stem.weight", with_one(-math.inf)), r"not finite.* in conv_stem\.weight"),
    ("a NaN statistic", with_changed("bn1.running_var", NAN), r"not finite.* in bn1\.running_var"),
    ("too large a double", with_changed("bn1.weight", lambda t: t.double() + 1e300), r"not finite.* in bn1\.weight"),
    ("NaN, by order", lambda w: {f"w{n}": NAN(t) if t.ndim else t for n, t in enumerate(w.values())}, "not finite"),
    ("two models", lambda w: prefixed("a.")(w) | prefixed("b.")({n: t + 1 for n, t in w.items()}), "more than once"),
    ("two entries", lambda w: {"model": w, "net": {n: t + 1 for n, t in w.items()}}, r"entry model; entry net"),
    ("by order but for one", lambda w: {f"w{n}": t for n, t in enumerate(list(w.values())[1:])}, "it has w0, w1"),
]


FORMS_OF_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "a sparse tensor (sparse_coo)": Tensor.to_sparse,
    "a tensor without values (meta)": lambda tensor: tensor.to("meta"),
}


@pytest.mark.parametrize("form", FORMS_OF_TENSORS)
@pytest.mark.parametrize(
    "around", [dict, inside("model"), lambda w: {"model": w, "model_ema": w}], ids=["", "in", "ema"]
)
def test_a_tensor_without_plain_values_is_refused_by_its_name_unless_it_is_not_used(
    form: str, around: Callable[[Tensors], Any], tmp_path: Path, seven: Tensors, backbone: nn.Module
) -> None:
    change = FORMS_OF_TENSORS[form]
    torch.save(around(with_changed("conv_stem.weight", change)(seven)), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=re.escape(f"x.pth has conv_stem.weight as {form}: save")):
        load_backbone(backbone, CNN, tmp_path / "x.pth")
    torch.save(around(with_changed("classifier.weight", change)(seven)), tmp_path / "y.pth")
    load_backbone(backbone, CNN, tmp_path / "y.pth")


def archived(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "model.safetensors.index.json": (
        lambda path: path.write_text('{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
        "is the index of weights in several files",
    ),
    "config.json": (lambda path: path.write_text('{"architecture": "swin"}'), "is a text in JSON"),
    "model.safetensors": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a pointer of Git LFS",
    ),
    "page.pth": (lambda path: path.write_text("\n<!DOCTYPE html><html></html>"), "is a web page"),
    "page.safetensors": (lambda path: path.write_text("<html></html>"), "is a web page"),
    "w.npz": (lambda path: np.savez(path, weight=np.ones(3)), "is an archive of numpy's arrays"),
    "w.npy": (lambda path: np.save(path, np.ones(3)), "is an array of numpy"),
    "w.zip": (lambda path: archived(path, "w.safetensors"), "is an archive of files (zip)"),
    "w.pt.gz": (lambda path: path.write_bytes(gzip.compress(b"PK")), "is compressed"),
    "w.tar": (lambda path: path.write_bytes(tarfile.TarInfo("w").tobuf()), "is an archive (tar)"),
    "w.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is a file in HDF5"),
    "w.gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0"), "is a file in GGUF"),
    "script.pt": (lambda path: archived(path, "w/data.pkl", "w/code/w.py"), "is a program (TorchScript)"),
    "e.pt": (lambda path: path.touch(), "is empty"),
    "e.safetensors": (lambda path: path.touch(), "is empty"),
    "noise.pt": (lambda path: path.write_bytes(bytes(range(1, 200))), "is damaged, compressed, or contains more"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_holds_no_weights_is_named_for_what_it_is(name: str, tmp_path: Path, backbone: nn.Module) -> None:
    write, reason = OTHERS[name]
    write(tmp_path / name)
    with pytest.raises(WeightsError, match="^" + re.escape(f"{name} {reason}")) as refusal:
        load_backbone(backbone, CNN, tmp_path / name)
    assert ": " in str(refusal.value)


@pytest.mark.parametrize("entry", ["schema.ema", "model", "a.b.c"])
def test_the_entry_that_is_loaded_is_not_left_out(
    entry: str, tmp_path: Path, seven: Tensors, backbone: nn.Module
) -> None:
    torch.save({entry: headless(seven), "epoch": 3}, tmp_path / "x.pth")
    assert load_backbone(backbone, CNN, tmp_path / "x.pth").endswith("; left out: epoch")


@pytest.mark.parametrize(("content", "reason"), [case[1:] for case in UNFIT], ids=[case[0] for case in UNFIT])
def test_what_does_not_fit_is_refused_and_named(
    content: Callable[[Tensors], Any], reason: str, tmp_path: Path, seven: Tensors, backbone: nn.Module
) -> None:
    torch.save(content(seven), tmp_path / "x.pth")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"^x\.pth .*{reason}"):
        load_backbone(backbone, CNN, tmp_path / "x.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_what_is_not_used_may_be_anything(tmp_path: Path, seven: Tensors, backbone: nn.Module) -> None:
    torch.save({"model": seven, "old": seven["bn1.bias"] * math.nan}, tmp_path / "x.pth")
    load_backbone(backbone, CNN, tmp_path / "x.pth")


def test_entries_in_circles_end(tmp_path: Path, backbone: nn.Module) -> None:
    content: dict[str, Any] = {"weights": torch.ones(1)}
    content["self"] = content
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"self\.self.* is an entry inside 32 others"):
        load_backbone(backbone, CNN, tmp_path / "x.pth")


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.bin", "x"])
def test_a_file_is_what_it_holds_whatever_its_name_says(
    name: str, legacy: bool, tmp_path: Path, seven: Tensors, backbone: nn.Module
) -> None:
    torch.save(seven, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert load_backbone(backbone, CNN, tmp_path / name).startswith(f"{len(seven) - 2} tensors from {name}")
    safetensors.torch.save_file(seven, tmp_path / name)
    assert load_backbone(backbone, CNN, tmp_path / name).startswith(f"{len(seven) - 2} tensors from {name}")
