"""Of a bundle, whatever does not match is refused, with the file and the reason."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from app.bundles.graph_names import GRAPHS, LIFTED, TOKENS
from app.bundles.manifest import BASELINE, MANIFEST, WEIGHTS, parse_manifest
from app.bundles.reader import MAX_BYTES, MAX_WEIGHTS_BYTES, read_bundle
from app.engines.load import load_engine
from app.errors import BundleError
from app.models.cnnswin import Fusion
from tests.support.bundles import Fields, describe, edit, seal, tiny_model, tiny_reference
from training.export.export import write_bundle


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def with_graphs(folder: Path) -> Path:
    """A bundle that lists all compiled graphs. Reading verifies their bytes; only an engine looks into them."""
    for name in (*GRAPHS, *LIFTED, TOKENS):
        (folder / name).write_bytes(f"the bytes of {name}".encode())
    return seal(folder, (*GRAPHS, *LIFTED, TOKENS))


def edit_tensors(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a file's tensors in place, with its digest right again."""
    tensors = safetensors.numpy.load_file(folder / name)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / name)
    seal(folder)


def refusal(folder: Path, file: str, pinned_sha256: str | None = None) -> str:
    """The reason why the bundle is refused for `file`."""
    with pytest.raises(BundleError) as caught:
        read_bundle(folder, pinned_sha256)
    assert caught.value.file == file
    return caught.value.reason


@pytest.mark.parametrize("place", [0, 0.5, 1])
@pytest.mark.parametrize("name", [WEIGHTS, BASELINE, *GRAPHS, *LIFTED, TOKENS, MANIFEST])
def test_one_flipped_byte_is_refused(with_graphs: Path, name: str, place: float) -> None:
    pinned = read_bundle(with_graphs).sha256
    content = bytearray((with_graphs / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (with_graphs / name).write_bytes(content)
    assert "its sha256 is" in refusal(with_graphs, name, pinned)


@pytest.mark.parametrize("name", [WEIGHTS, BASELINE, *GRAPHS, *LIFTED, TOKENS, MANIFEST])
def test_a_missing_file_is_refused(with_graphs: Path, name: str) -> None:
    (with_graphs / name).unlink()
    assert "is missing" in refusal(with_graphs, name)


def test_graphs_are_handed_over_as_the_bytes_that_were_verified(with_graphs: Path) -> None:
    assert read_bundle(with_graphs).graphs == {
        name: (with_graphs / name).read_bytes() for name in (*GRAPHS, *LIFTED, TOKENS)
    }


def test_the_swins_stages_and_the_graph_of_its_tokens_belong_together(with_graphs: Path) -> None:
    edit(with_graphs, lambda fields: fields["files"].pop(TOKENS))
    assert f"token_stages: they belong to {TOKENS}" in refusal(with_graphs, MANIFEST)
    edit(with_graphs, lambda fields: fields.pop("token_stages"))
    assert read_bundle(with_graphs).manifest.token_stages == ()  # as bundles were before there were any


@pytest.mark.parametrize("name", [WEIGHTS, BASELINE, *GRAPHS, *LIFTED])
def test_a_manifest_without_a_needed_file_or_with_some_graphs_only_is_refused(with_graphs: Path, name: str) -> None:
    edit(with_graphs, lambda fields: fields["files"].pop(name))
    assert f"files: {name} is not listed" in refusal(with_graphs, MANIFEST)


def test_a_missing_tensor_is_refused(folder: Path) -> None:
    edit_tensors(folder, WEIGHTS, lambda tensors: tensors.pop("head.classifier.bias"))
    with pytest.raises(BundleError, match=r"model.safetensors.*head.classifier.bias is missing"):
        load_engine(read_bundle(folder), "torch")


def test_an_extra_tensor_is_refused(folder: Path) -> None:
    edit_tensors(folder, WEIGHTS, lambda tensors: tensors.update(surplus=np.zeros(2, np.float16)))
    with pytest.raises(BundleError, match=r"model.safetensors.*surplus"):
        load_engine(read_bundle(folder), "torch")


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    edit_tensors(folder, WEIGHTS, lambda tensors: tensors.update({"head.classifier.bias": np.zeros(3, np.float16)}))
    with pytest.raises(BundleError, match=r"model.safetensors.*head.classifier.bias"):
        load_engine(read_bundle(folder), "torch")


@pytest.mark.parametrize(
    "change",
    [
        {"cnn": "no_such_network"},
        {"heads": 7},
        {"swin_options": {"no_such_option": 1}},
        {"cnn_options": {"in_chans": -1}},
    ],
    ids=str,
)
def test_an_architecture_that_cannot_be_built_is_refused(folder: Path, change: Fields) -> None:
    edit(folder, lambda fields: fields["architecture"].update(change))
    with pytest.raises(BundleError, match=r"manifest.json: architecture"):
        load_engine(read_bundle(folder), "torch")


def test_map_shapes_other_than_the_architecture_has_are_refused(folder: Path) -> None:
    edit(folder, lambda fields: fields["map_shapes"]["cnn"].reverse())
    edit_tensors(folder, BASELINE, lambda tensors: tensors.update(cnn=np.ascontiguousarray(tensors["cnn"].T)))
    with pytest.raises(BundleError, match=r"manifest.json: map_shapes"):
        load_engine(read_bundle(folder), "torch")


@pytest.mark.parametrize("fusion", ["cross_attention", "late"])
def test_another_number_of_classes_than_the_weights_have_is_refused(tmp_path: Path, fusion: Fusion) -> None:
    model = tiny_model(fusion, 5)
    write_bundle(model, tmp_path / "new", describe(fusion, 5), tiny_reference(model), {}, None)
    edit(tmp_path / "new", lambda fields: fields["classes"].pop())
    assert "the manifest names 4 classes" in refusal(tmp_path / "new", WEIGHTS)


def test_a_newer_format_asks_for_an_upgrade(folder: Path) -> None:
    edit(folder, lambda fields: fields.update(format=4, something_new={}))
    assert refusal(folder, MANIFEST) == "format 4 is newer than this version reads (1 to 3): upgrade fusionlens"


def without_format_3(fields: Fields) -> None:
    for key in ("token_attention", "explanation", "parent", "cases"):
        del fields[key]
    for key in ("cnn_reduction", "swin_reduction", "swin_image_size"):
        del fields["architecture"][key]


def test_the_second_format_is_still_read_and_has_no_keys_of_the_third(folder: Path) -> None:
    edit(folder, lambda fields: fields.update(format=2))
    assert refusal(folder, MANIFEST).startswith("format: 3 is the first with")
    edit(folder, without_format_3)
    assert read_bundle(folder).manifest.branches == ("cnn", "swin")
    edit(folder, lambda fields: fields.update(parent="0" * 64))
    assert refusal(folder, MANIFEST) == "parent: format 3 is the first with such a key"


def test_the_first_format_is_still_read(folder: Path) -> None:
    def as_before(fields: Fields) -> None:
        fields.update(format=1)
        without_format_3(fields)
        del fields["input"]["stretch"]

    edit(folder, as_before)
    assert read_bundle(folder).manifest.input.stretch is None
    edit(folder, lambda fields: fields["input"].update(stretch="found"))
    assert refusal(folder, MANIFEST) == "input.stretch: format 1 has no such key"


@pytest.mark.parametrize("stretch", ["found", [0, 4095], None])
def test_the_rule_for_grey_values_is_read(folder: Path, stretch: object) -> None:
    edit(folder, lambda fields: fields["input"].update(stretch=stretch))
    read = read_bundle(folder).manifest.input.stretch
    assert (list(read) if isinstance(read, tuple) else read) == stretch


@pytest.mark.parametrize("stretch", [[4095, 0], [5, 5], [0, 65_536], [-1, 5], [0], "widest", 7, True])
def test_a_wrong_rule_for_grey_values_is_refused(folder: Path, stretch: object) -> None:
    edit(folder, lambda fields: fields["input"].update(stretch=stretch))
    assert refusal(folder, MANIFEST).startswith("input.stretch")


@pytest.mark.parametrize("number", [0, -1, "1", 1.0, True, None])
def test_a_format_that_never_was_is_refused(folder: Path, number: object) -> None:
    edit(folder, lambda fields: fields.update(format=number))
    assert f"format is {number!r}" in refusal(folder, MANIFEST)


@pytest.mark.parametrize("outside", ["../outside", "/etc/passwd", "sub/inside", ".", "sub\\inside", f"./{WEIGHTS}"])
def test_a_path_in_the_manifest_is_refused(folder: Path, outside: str) -> None:
    for there in (folder.parent / "outside", folder / "sub" / "inside", folder / "sub\\inside"):
        there.parent.mkdir(exist_ok=True)
        there.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    edit(folder, lambda fields: fields["files"].update({outside: digest}))
    assert f"files: {outside!r} is not a file of a bundle" in refusal(folder, MANIFEST)


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_a_link_out_of_the_bundle_is_refused(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to("../elsewhere")
    assert "outside the bundle" in refusal(folder, name)


def test_links_within_the_bundle_are_followed(folder: Path, tiny_bundle: Path) -> None:
    """Volumes of container platforms are made of such links."""
    (folder / "data").mkdir()
    for name in (MANIFEST, WEIGHTS, BASELINE):
        (folder / name).rename(folder / "data" / name)
        (folder / name).symlink_to(Path("data") / name)
    assert read_bundle(folder).sha256 == read_bundle(tiny_bundle).sha256


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="SKIPPED LOUDLY: no named pipes here")
def test_a_named_pipe_is_refused_instead_of_waited_for(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    assert "is missing" in refusal(folder, WEIGHTS)


def test_only_the_pinned_manifest_is_read(folder: Path) -> None:
    sha256 = read_bundle(folder).sha256
    assert read_bundle(folder, sha256.upper()).sha256 == sha256
    edit(folder, lambda fields: fields.update(version="2"))
    reason = refusal(folder, MANIFEST, sha256)
    assert sha256 in reason
    assert read_bundle(folder).sha256 in reason


def test_an_absent_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere", MANIFEST).startswith(f"there is no folder {tmp_path / 'nowhere'}: ")


@pytest.mark.parametrize("text", [b"", b'{"format": 1, "name": "ti', b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}'])
def test_text_that_is_not_json_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert "is not JSON" in refusal(folder, MANIFEST)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, BASELINE, *GRAPHS, *LIFTED, TOKENS])
def test_a_file_of_holes_is_refused_before_it_is_read(with_graphs: Path, name: str) -> None:
    os.truncate(with_graphs / name, MAX_BYTES.get(name, MAX_WEIGHTS_BYTES) + 1)
    tracemalloc.start()
    assert "bytes, but at most" in refusal(with_graphs, name)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16 << 20


def test_a_header_without_end_is_refused_before_it_is_parsed(folder: Path) -> None:
    tensors = b",".join(b'"%d":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}' % n for n in range(100_000))
    header = b"{" + tensors + b"}"
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    seal(folder)
    assert "its header has 5" in refusal(folder, WEIGHTS)


WRONG: dict[str, tuple[Callable[[Fields], object], str]] = {
    "an unknown key": (lambda f: f.update(colour="red"), "colour: Extra inputs"),
    "an unknown inner key": (lambda f: f["input"].update(crop=1), "input.crop: Extra inputs"),
    "a missing key": (lambda f: f.pop("licence"), "licence: Field required"),
    "a number in quotes": (lambda f: f["input"].update(height_px="64"), "input.height_px: "),
    "an input of a million px": (lambda f: f["input"].update(width_px=1_000_000), "input.width_px: "),
    "an unknown crop rule": (lambda f: f["input"].update(rule="stretch"), "input.rule: "),
    "one class": (lambda f: f.update(classes=["benign"]), "classes: "),
    "an empty class name": (lambda f: f.update(classes=["", "malignant"]), "classes.0: "),
    "a class twice": (lambda f: f.update(classes=["malignant", "malignant"]), "classes: "),
    "a class that shows nothing": (lambda f: f.update(classes=["\u200b", "malignant"]), "classes.0: it shows nothing"),
    "a class with a hidden character": (
        lambda f: f.update(classes=["benign\u200b", "malignant"]),
        "classes.0: it has the invisible character '\\u200b' (zero width space)",
    ),
    "a class of text that turns": (lambda f: f.update(classes=["a\u202eb", "c"]), "classes.0: it has the control"),
    "a blank after a class": (lambda f: f.update(classes=["a ", "b"]), "classes.0: it has a blank at its"),
    "two blanks in a class": (lambda f: f.update(classes=["a  b", "c"]), "classes.0: it has two blanks in a row"),
    "classes that look the same": (
        lambda f: f.update(classes=["malignant", "m\u0430lignant"]),
        "classes: 'malignant' and 'm\\u0430lignant' look the same",
    ),
    "a name that shows nothing": (lambda f: f.update(name="\u3164"), "name: it shows nothing"),
    "an unknown positive class": (lambda f: f["decision"].update(positive="other"), "decision: positive is 'other'"),
    "a threshold of 1": (lambda f: f["decision"].update(threshold=1.0), "decision.threshold: "),
    "a temperature of 0": (lambda f: f["calibration"].update(temperature=0), "calibration.temperature: "),
    "a threshold for three classes": (lambda f: f["classes"].append("third"), "decision: a threshold needs exactly 2"),
    "a name that moves the cursor": (
        lambda f: f.update(name="a\x1b[31m"),
        "name: it has the control character '\\x1b'",
    ),
    "a name of two lines": (lambda f: f.update(name="a\r\nb"), "name: it has the control character '\\r'"),
    "a class of two lines": (lambda f: f.update(classes=["a", "b\u2028c"], decision=None), "classes.1: it has the"),
    "a note that moves the cursor": (lambda f: f.update(notes=["one\ntwo\x07"]), "notes.0: it has the control"),
    "a branch without its normalization": (lambda f: f["normalization"].pop("swin"), "normalization: "),
    "a branch without its map shape": (lambda f: f["map_shapes"].pop("cnn"), "map_shapes: "),
    "an unknown branch": (lambda f: f["map_shapes"].update(other=[1, 1, 1]), "map_shapes.other"),
    "two transformers": (lambda f: f["map_shapes"].update(vit=[1, 1, 1]), "map_shapes: "),
    "a fusion that lacks a branch": (lambda f: f["architecture"].update(fusion="cnn"), "normalization: "),
    "an unknown fusion": (lambda f: f["architecture"].update(fusion="sum"), "architecture.fusion: "),
    "weights from a path": (
        lambda f: f["architecture"]["cnn_options"].update(checkpoint_path="/tmp/x.pth"),
        "architecture.cnn_options: 'checkpoint_path' would load weights from elsewhere",
    ),
    "pretrained weights": (
        lambda f: f["architecture"]["swin_options"].update(pretrained_cfg={}),
        "architecture.swin_options: 'pretrained_cfg' would load weights from elsewhere",
    ),
    "a short digest": (lambda f: f["files"].update({WEIGHTS: "abc"}), f"files.{WEIGHTS}: "),
    "no object": (lambda f: f.clear(), "format is None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_is_refused_by_field(folder: Path, case: str) -> None:
    change, reason = WRONG[case]
    edit(folder, change)
    assert refusal(folder, MANIFEST).startswith(reason)


def leaves(value: Any, *path: str | int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The path and the value of everything in a manifest that is no list, no object and none of timm's options."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ("recipe", "cnn_options", "swin_options"):
                yield from leaves(inner, *path, key)
    else:
        yield path, value


def others(value: Any) -> list[Any]:
    """Values of another type, which a lenient reader would take for one like this."""
    if isinstance(value, bool):
        return [0, 1, "true"]
    if isinstance(value, int | float):
        return [True, str(value), [value]]
    return [True, 1.5, 1 if isinstance(value, str) else "none"]


def test_no_value_is_taken_for_one_of_another_type(with_graphs: Path) -> None:
    content = json.loads((with_graphs / MANIFEST).read_bytes())
    found = list(leaves(content))
    assert len(found) > 40
    for (*path, last), value in found:
        for other in others(value):
            changed = copy.deepcopy(content)
            inner = changed
            for step in path:
                inner = inner[step]
            inner[last] = other
            with pytest.raises(BundleError, match=str(path[0] if path else last)):
                parse_manifest(json.dumps(changed).encode())


@pytest.mark.parametrize("change", [lambda maps: maps.pop("cnn"), lambda maps: maps.update(cnn=maps["cnn"][:, :1])])
def test_a_reference_other_than_the_map_shapes_say_is_refused(folder: Path, change: Callable[[Fields], object]) -> None:
    edit_tensors(folder, BASELINE, change)
    assert "map_shapes need" in refusal(folder, BASELINE)


def test_notes_may_have_several_lines(folder: Path) -> None:
    edit(folder, lambda fields: fields.update(notes=["One line.\nAnother."]))
    assert read_bundle(folder).manifest.notes == ("One line.\nAnother.",)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.bool_])
def test_statistics_that_are_no_floats_are_refused(folder: Path, kind: type) -> None:
    """A number of the manifest may not fit another type at all."""
    edit(folder, lambda fields: fields["normalization"]["swin"].update(mean=[1e300, 1e300, 1e300]))
    edit_tensors(folder, WEIGHTS, lambda tensors: tensors.update(swin_mean=tensors["swin_mean"].astype(kind)))
    assert "swin_mean holds" in refusal(folder, WEIGHTS)


def test_a_normalization_other_than_the_weights_have_is_refused(folder: Path) -> None:
    edit(folder, lambda fields: fields["normalization"]["swin"].update(mean=[0.5, 0.5, 0.5]))
    assert refusal(folder, WEIGHTS).startswith("swin_mean is [0.48")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    edit_tensors(folder, WEIGHTS, lambda tensors: tensors["head.classifier.weight"].put(3, value))
    assert "head.classifier.weight holds values that are not finite" in refusal(folder, WEIGHTS)


class _Payload:
    """Unpickling this makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", [WEIGHTS, BASELINE])
def test_a_pickle_is_refused_and_never_run(folder: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "was run"
    (folder / name).write_bytes(pickle.dumps(_Payload(mark)))
    seal(folder)
    assert "is not a readable safetensors file" in refusal(folder, name)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_off_safetensors_file_is_refused(folder: Path, keep: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    seal(folder)
    assert "is not a readable safetensors file" in refusal(folder, WEIGHTS)


def test_a_bundle_is_read_without_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from app.bundles.reader import read_bundle; "
        f"read_bundle(Path({str(folder)!r})); print({{'torch', 'timm'}} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
