"""What a branch starts from: local files, and timm's download from a hub that is there, or not."""

from __future__ import annotations

import io
import os
import re
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from app.bundles.reader import read_bundle
from app.engines.torch import load_model
from app.models.cnnswin import CNNViTFusion
from tests.support.bundles import tiny_architecture, write_tiny_bundle, write_vit_bundle
from training.cli import main
from training.data.draw import draw_dataset
from training.loop.pretrained import WeightsError, load_backbone, load_start_weights
from training.recipe.config import Recipe
from training.recipe.load import load_recipe
from training.runs.torch_files import _sizes_in_directory

CNN = "test_efficientnet"


def tiny_recipe(start: dict[str, Any], **model: Any) -> Recipe:
    tiny = tiny_architecture().model_dump() | {"image_size": (64, 64)} | model
    return Recipe.model_validate({"name": "tiny", "model": tiny, "start": start})


def started(recipe: Recipe) -> CNNViTFusion:
    model = CNNViTFusion(2, **recipe.model.model_dump())
    load_start_weights(model, recipe, ("benign", "malignant"), [])
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle of the classes benign and malignant, without graphs."""
    return write_tiny_bundle(tmp_path_factory.mktemp("start") / "tiny", seed=3)


@pytest.mark.parametrize(
    ("classes", "changes", "says"),
    [
        (("benign", "malignant"), {}, "the whole model of"),
        (("benign", "other"), {}, "the head is new, since the classes there are benign, malignant"),
        (("a", "b", "c"), {}, "the head is new, since the classes there are benign, malignant"),
        (("benign", "malignant"), {"dim": 32}, "the head is new, since the recipe's head is another one"),
        (("benign", "malignant"), {"heads": 1}, "the head is new, since the recipe's head is another one"),
        (("benign", "malignant"), {"fusion": "cnn"}, "the head is new, since the recipe's head is another one"),
    ],
)
def test_a_model_starts_whole_from_a_bundle_of_its_classes_and_else_from_its_backbones(
    bundle: Path, classes: tuple[str, ...], changes: dict[str, Any], says: str
) -> None:
    recipe = tiny_recipe({"bundle": str(bundle)}, **changes)
    torch.manual_seed(1)
    model = CNNViTFusion(len(classes), **recipe.model.model_dump())
    before = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    (sentence,) = load_start_weights(model, recipe, classes, [])
    assert says in sentence and str(bundle) in sentence
    theirs = load_model(read_bundle(bundle)).state_dict()
    is_whole = says.startswith("the whole")
    for name, tensor in model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, theirs[name]), name
        else:
            expected = theirs[name] if is_whole else before[name.removeprefix("head.")]
            assert torch.equal(tensor, expected), name


def test_the_head_of_a_bundle_is_left_out_if_the_recipe_says_so(bundle: Path) -> None:
    recipe = tiny_recipe({"bundle": str(bundle), "head": "new"})
    model = CNNViTFusion(2, **recipe.model.model_dump())
    before = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    (sentence,) = load_start_weights(model, recipe, ("benign", "malignant"), [])
    assert sentence == f"start.bundle: the backbones of {bundle}; the head is new, as start.head says"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.head.state_dict().items())
    theirs = load_model(read_bundle(bundle)).state_dict()
    assert all(torch.equal(model.state_dict()[name], theirs[name]) for name in theirs if not name.startswith("head."))


@pytest.mark.parametrize(
    ("changes", "branch"),
    [
        ({"cnn": "resnet18"}, "cnn"),
        ({"swin_options": tiny_architecture().swin_options | {"embed_dim": 16}}, "swin"),
        ({"swin_options": tiny_architecture().swin_options | {"depths": [1, 2, 2]}}, "swin"),
    ],
)
def test_a_bundle_of_other_backbones_is_no_start(bundle: Path, changes: dict[str, Any], branch: str) -> None:
    with pytest.raises(WeightsError, match=rf"start\.bundle: .* give it the same model\.{branch}"):
        started(tiny_recipe({"bundle": str(bundle)}, **changes))


def vit_recipe(bundle: Path, **changes: Any) -> Recipe:
    vit = {"swin": "vit_tiny_patch16_224", "swin_options": {"depth": 2, "embed_dim": 24, "num_heads": 2}}
    return tiny_recipe({"bundle": str(bundle)}, **vit | changes)


@pytest.fixture(scope="module")
def vit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vit_bundle(tmp_path_factory.mktemp("start") / "vit")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"swin_options": {"depth": 2, "embed_dim": 24, "num_heads": 4}}, "model.swin_options: "),
        ({"swin": "deit_tiny_patch16_224"}, "model.swin: vit_tiny_patch16_224"),
        ({"cnn_reduction": 16}, "model.cnn_reduction: None"),
        ({"cnn": "test_efficientnet_ln"}, "model.cnn"),
    ],
)
def test_backbones_that_make_other_maps_of_the_same_weights_are_no_start(
    vit_bundle: Path, changes: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(WeightsError, match=rf"start\.bundle: .* give it .*{re.escape(wanted)}"):
        started(vit_recipe(vit_bundle, **changes))


def test_what_changes_no_map_may_differ_from_the_bundle(vit_bundle: Path) -> None:
    options = {"depth": 2, "embed_dim": 24, "num_heads": 2, "drop_path_rate": 0.2}
    model = started(vit_recipe(vit_bundle, swin_options=options))
    theirs = load_model(read_bundle(vit_bundle)).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


def test_positions_of_a_bundle_are_resampled_to_the_size_of_pictures(vit_bundle: Path) -> None:
    swin = started(vit_recipe(vit_bundle, image_size=(96, 64))).swin
    theirs = load_model(read_bundle(vit_bundle)).swin
    assert swin is not None and theirs is not None
    expected = resample_abs_pos_embed(theirs.pos_embed, [6, 4], num_prefix_tokens=1)
    assert torch.equal(swin.pos_embed, expected) and expected.shape != theirs.pos_embed.shape


def test_a_start_is_a_folder_and_alone(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is no folder"):
        started(tiny_recipe({"bundle": str(tmp_path / "none")}))
    with pytest.raises(ValueError, match="fills both branches"):
        tiny_recipe({"bundle": str(bundle), "cnn": {"pretrained": True}})


def test_a_run_can_be_a_start(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data", 16, seed=5)
    assert (
        main(["fit", "smoke", "-s", "workers=0", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "a")]) == 0
    )
    change = f"start.bundle={tmp_path / 'a'}"
    recipe = load_recipe("smoke", [change])
    model = CNNViTFusion(2, **recipe.model.model_dump())
    (sentence,) = load_start_weights(model, recipe, ("benign", "malignant"), [])
    assert "the whole model" in sentence
    ours = safetensors.torch.load_file(tmp_path / "a" / "ema.safetensors")
    assert all(torch.equal(tensor, ours[name]) for name, tensor in model.state_dict().items())


def is_filled_from(backbone: Any, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """The weights of a CNN with its classifier, as they are published."""
    weights: dict[str, Tensor] = timm.create_model(CNN).state_dict()
    return weights


@pytest.fixture
def backbone() -> nn.Module:
    return timm.create_model(CNN, num_classes=0)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_branch_starts_from_a_local_file(tmp_path: Path, whole: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    safetensors.torch.save_file(whole, path) if suffix == "safetensors" else torch.save(whole, path)
    assert is_filled_from(started(tiny_recipe({"cnn": {"weights": str(path)}})).cnn, whole)


def test_a_swins_weights_fit_its_options_and_another_picture_size(tmp_path: Path) -> None:
    options = tiny_architecture().swin_options | {"window_size": 4}
    source = timm.create_model(tiny_architecture().swin, img_size=(64, 64), **options).state_dict()
    for name, tensor in source.items():
        if name.endswith("bias_table"):  # one value for each head, which no resampling changes
            tensor[:] = torch.arange(1.0, tensor.shape[1] + 1)
    torch.save(source, tmp_path / "swin.pth")
    start = {"swin": {"weights": str(tmp_path / "swin.pth")}}
    swin_at_32 = started(tiny_recipe(start, image_size=(32, 32), swin_options=options)).swin
    assert swin_at_32 is not None
    filled = swin_at_32.state_dict()
    resized = {name for name, tensor in filled.items() if tensor.shape != source[name].shape}
    assert resized and all(name.endswith("bias_table") for name in resized)
    for name, tensor in filled.items():
        torch.testing.assert_close(tensor, source[name][:1].expand_as(tensor) if name in resized else source[name])
    with pytest.raises(WeightsError, match=r"swin\.pth does not fit .*embed_dim=16"):
        started(tiny_recipe(start, image_size=(32, 32), swin_options=options | {"embed_dim": 16}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"embed_dim": 24, "num_heads": 2}),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 24, "num_heads": 2}),
        ("deit_tiny_distilled_patch16_224", {"embed_dim": 24, "num_heads": 2}),
        ("eva02_tiny_patch14_224", {"embed_dim": 24, "num_heads": 2}),
        ("beit_base_patch16_224", {"embed_dim": 24, "num_heads": 2}),
        ("cait_xxs24_224", {"embed_dim": 24, "num_heads": 2}),
    ],
)
def test_positions_of_a_file_are_resampled_as_timm_does_or_refused_in_a_sentence(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    options, path = {"depth": 1, **options}, tmp_path / "native.pth"
    source = timm.create_model(name, num_classes=5, **options).state_dict()
    torch.save(source, path)
    options["img_size"] = (56, 112) if "14" in name else (64, 96)
    backbone = timm.create_model(name, num_classes=0, **options)
    try:
        overlay = {"state_dict": dict(source), "label_offset": 0}
        expected = timm.create_model(name, pretrained=True, num_classes=5, pretrained_cfg_overlay=overlay, **options)
    except RuntimeError:  # timm cannot, so that there is nothing to start from
        with pytest.raises(WeightsError, match=r"does not fit .*pos_embed"):
            load_backbone(backbone, name, path, options)
        return
    assert "resampled by timm: " in load_backbone(backbone, name, path, options)
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[key]), key


class RunsCode:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("code-was-run",)


def test_a_pickle_that_would_run_code_is_refused_unrun(
    tmp_path: Path, whole: dict[str, Tensor], backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(whole | {"extra": RunsCode()}, "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        load_backbone(backbone, CNN, Path("evil.pth"))
    assert not Path("code-was-run").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_damaged_file_is_told_in_a_sentence(
    tmp_path: Path, whole: dict[str, Tensor], backbone: nn.Module, suffix: str, share: float
) -> None:
    path = tmp_path / f"torn.{suffix}"
    safetensors.torch.save_file(whole, path) if suffix == "safetensors" else torch.save(whole, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match=rf"torn\.{suffix}"):
        load_backbone(backbone, CNN, path)


def overlapping(content: bytes) -> bytes:
    """An archive whose directory lists its last file many times."""
    start = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x05\x06"))
    end = content.index(b"PK", start + 4)
    repeated, tail = content[start:end] * 1000, bytearray(content[content.rindex(b"PK\x05\x06") :])
    directory = int.from_bytes(tail[16:20], "little")
    before = content[directory:start]
    tail[8:10] = tail[10:12] = (int.from_bytes(tail[8:10], "little") + 999).to_bytes(2, "little")
    tail[12:16] = (len(before) + len(repeated)).to_bytes(4, "little")
    return content[:directory] + before + repeated + bytes(tail)


def with_two_directories(content: bytes) -> bytes:
    """An archive with a second directory, of one empty file, which readers find that look beside the archive's end."""
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x", "")
    end, other_end = content.rindex(b"PK\x05\x06"), other.getvalue().rindex(b"PK\x05\x06")
    entry = bytearray(other.getvalue()[other.getvalue().index(b"PK\x01\x02") : other_end])
    padding = int.from_bytes(content[end + 12 : end + 16], "little") - len(entry)
    entry[32:34] = padding.to_bytes(2, "little")  # the length of the entry's comment
    return content[:end] + entry + bytes(padding) + content[end:]


def far_from_its_end(content: bytes) -> bytes:
    """An archive whose end lies farther from the file's than its format allows, which torch reads all the same."""
    return content + bytes(66_000)


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "compressed": lambda content: content,
    "compressed, two directories": with_two_directories,
    "compressed, far from its end": far_from_its_end,
    "overlapping": overlapping,
}


def archive_of(folder: Path, whole: dict[str, Tensor], how: str) -> Path:
    """The file of a state dict with something more in it: as torch saves it, or as a bomb."""
    torch.save(whole | {"extra": torch.zeros(1 << 24, dtype=torch.uint8)}, folder / "as saved.pth")
    if how not in BOMBS:
        return folder / "as saved.pth"
    with zipfile.ZipFile(folder / "as saved.pth") as archive, zipfile.ZipFile(folder / "bomb.pth", "w") as bomb:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.file_size):
            packing = zipfile.ZIP_STORED if how == "overlapping" else zipfile.ZIP_DEFLATED
            bomb.writestr(entry.filename, archive.read(entry), packing)
    (folder / "bomb.pth").write_bytes(BOMBS[how]((folder / "bomb.pth").read_bytes()))
    return folder / "bomb.pth"


@pytest.mark.parametrize("how", BOMBS)
def test_a_file_that_would_unpack_to_more_than_it_has_is_refused(
    tmp_path: Path, whole: dict[str, Tensor], backbone: nn.Module, how: str
) -> None:
    with pytest.raises(WeightsError, match=r"bomb\.pth is damaged, compressed") as refused:
        load_backbone(backbone, CNN, archive_of(tmp_path, whole, how))
    assert "would unpack to" in str(refused.value.__cause__)


@pytest.mark.skipif(not hasattr(torch._C.PyTorchFileReader, "get_record_size"), reason="this torch does not say them")
@pytest.mark.parametrize("how", ["as saved", "compressed", "overlapping"])
def test_a_torch_that_does_not_say_the_sizes_of_records_is_told_them_by_the_directory(
    tmp_path: Path, whole: dict[str, Tensor], how: str
) -> None:
    file = archive_of(tmp_path, whole, how)
    reader: Any = torch._C.PyTorchFileReader(str(file))
    names = reader.get_all_records()
    offsets = [reader.get_record_header_offset(name) for name in names]
    with file.open("rb") as opened:
        assert _sizes_in_directory(opened, offsets) == [reader.get_record_size(name) for name in names]


@pytest.mark.parametrize("how", ["compressed, two directories", "compressed, far from its end"])
def test_a_directory_that_torch_may_not_read_tells_no_sizes(tmp_path: Path, whole: dict[str, Tensor], how: str) -> None:
    file = archive_of(tmp_path, whole, how)
    reader: Any = torch._C.PyTorchFileReader(str(file))
    offsets = [reader.get_record_header_offset(name) for name in reader.get_all_records()]
    with file.open("rb") as opened, pytest.raises(ValueError, match="director"):
        _sizes_in_directory(opened, offsets)


def test_a_storage_that_can_be_read_under_many_names_is_refused(
    tmp_path: Path, whole: dict[str, Tensor], backbone: nn.Module
) -> None:
    """To torch, `data/abc` and `data/ABC` are one record, so a pickle with both would make two tensors of it."""
    torch.save(whole, tmp_path / "as saved.pth")
    with zipfile.ZipFile(tmp_path / "as saved.pth") as archive, zipfile.ZipFile(tmp_path / "named.pth", "w") as named:
        for entry in archive.infolist():
            named.writestr(entry.filename.replace("/data/0", "/data/abc"), archive.read(entry))
    with pytest.raises(WeightsError, match=r"named\.pth is damaged") as refused:
        load_backbone(backbone, CNN, tmp_path / "named.pth")
    assert "'data/abc'" in str(refused.value.__cause__)


def test_a_start_that_cannot_be_is_refused(tmp_path: Path, whole: dict[str, Tensor], backbone: nn.Module) -> None:
    with pytest.raises(WeightsError, match=r"start\.swin .* fusion cnn"):
        started(tiny_recipe({"swin": {"pretrained": True}}, fusion="cnn"))
    with pytest.raises(WeightsError, match=r"no pretrained weights for efficientnet_b0_gn.*start\.cnn\.weights"):
        started(tiny_recipe({"cnn": {"pretrained": True}}, cnn="efficientnet_b0_gn"))
    with pytest.raises(WeightsError, match=r"no weights at .*nowhere\.pth"):
        load_backbone(backbone, CNN, tmp_path / "nowhere.pth")


class Hub(BaseHTTPRequestHandler):
    """A hub with one file, `content`; it remembers what it was asked."""

    content = b""
    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self._has_it() else 404)
        self.send_header("Content-Length", str(len(self.content) if self._has_it() else 0))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content if self._has_it() else b"")

    def _has_it(self) -> bool:
        parts = self.path.split("/")
        return parts[1:3] == ["timm", f"{CNN}.r160_in1k"] and parts[-1] == "model.safetensors"

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def served(whole: dict[str, Tensor]) -> Iterator[tuple[str, type[Hub]]]:
    """The address of a hub that has the CNN's weights, and what it was asked."""
    hub = type("ThisHub", (Hub,), {"content": safetensors.torch.save(whole), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def nobody_there() -> Iterator[str]:
    """An address that somebody has, so that nobody else gets it, and where nobody listens."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def ask_hub_at(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = huggingface_hub.constants
    monkeypatch.setattr(settings, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(settings, "ENDPOINT", address)
    monkeypatch.setattr(settings, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


def test_pretrained_weights_are_downloaded_once_and_then_offline(
    tmp_path: Path,
    whole: dict[str, Tensor],
    served: tuple[str, type[Hub]],
    nobody_there: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, hub = served
    ask_hub_at(address, tmp_path, monkeypatch)
    recipe = tiny_recipe({"cnn": {"pretrained": True}})
    assert is_filled_from(started(recipe).cnn, whole) and hub.asked
    ask_hub_at(nobody_there, tmp_path, monkeypatch)
    assert is_filled_from(started(recipe).cnn, whole)


@pytest.mark.parametrize("cnn", [CNN, "test_byobnet"], ids=["nobody there", "a hub without the model"])
def test_a_download_that_fails_says_soon_what_to_fetch_and_where_to_name_it(
    tmp_path: Path, served: tuple[str, type[Hub]], nobody_there: str, cnn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_hub_at(nobody_there if cnn == CNN else served[0], tmp_path, monkeypatch)
    recipe = tiny_recipe({"cnn": {"pretrained": True}}, cnn=cnn)
    begun_s = time.monotonic()
    with pytest.raises(WeightsError, match=rf"huggingface\.co/timm/{cnn}.*start\.cnn\.weights: PATH"):
        started(recipe)
    assert time.monotonic() - begun_s < 30  # the hub's client alone would try for 45 s
