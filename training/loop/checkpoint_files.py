"""Files of weights that others have written: which of their tensors are a backbone's.

A checkpoint may hold the weights inside an entry such as `model` or `state_dict`, under a prefix such as `module.` or
`backbone.`, and with much else: a classifier, an optimizer, the number of the epoch. The weights are found by timm's
names. What is left out is said. Where no name is timm's, tensors are taken by their order if all shapes agree, since
checkpoints that were converted from the same source often differ in names only; that is said too.
"""

from __future__ import annotations

import argparse
import pickle
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from training.errors import TrainingProblem
from training.loop.file_kinds import other_kind
from training.runs.torch_files import load_torch_file

# The errors that reading damaged files has raised in tests.
_READ_ERRORS = (
    *(safetensors.SafetensorError, pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
_NAMED = 5  # names in a sentence
_DEPTH = 32  # of entries inside entries, which may be in circles
_COUNTER = "num_batches_tracked"  # of batch norms, which old files lack
_AVERAGED = {"ema", "average", "averaged"}  # a word of the name of averaged weights, also as in modelEMA
_POSITIONS = ("relative_position_bias_table", "pos_embed")  # which timm resamples to the size of window or picture
Tensors = dict[str, Tensor]


class WeightsError(TrainingProblem, ValueError):
    """Weights that cannot be read or downloaded, or that do not fit the backbone. The message says why."""


@dataclass(frozen=True)
class FoundWeights:
    """A backbone's tensors by timm's names, and a sentence on where they are from and what was left out."""

    tensors: Tensors
    sentence: str


@dataclass(frozen=True)
class _Place:
    """Named tensors in a file: those of an entry, under a prefix. `entry` is empty for the file itself."""

    entry: str
    prefix: str
    tensors: Tensors

    def __str__(self) -> str:
        return " ".join([f"entry {self.entry}"] * bool(self.entry) + [f"prefix {self.prefix}"] * bool(self.prefix))

    def by_timm_name(self, wanted: Mapping[str, Tensor]) -> Tensors:
        """The wanted tensors that are here."""
        return {name: self.tensors[self.prefix + name] for name in wanted if self.prefix + name in self.tensors}


_PARTS = {
    **dict.fromkeys(("weight", "weights", "kernel", "gamma", "scale"), "weight"),
    **dict.fromkeys(("bias", "biases", "beta", "offset"), "bias"),
    **dict.fromkeys(("mean", "mu"), "mean"),
    **dict.fromkeys(("var", "variance"), "variance"),
}


def read_weights(path: Path) -> dict[str, Any]:
    """Read a file's tensors and plain values, whatever its suffix says that it is.

    Other pickled objects are refused, since loading them could run code. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        # A Namespace is what argparse makes of a command line: plain values, as many checkpoints have them.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            content = load_torch_file(file)
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
        if (kind := other_kind(path)) is not None:
            raise WeightsError(f"{path.name} {kind}") from error
        # Torch's own message is left out, because it explains how to load an unsafe file anyway.
        beside = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        reason = (
            f"contains more than tensors and plain values ({beside[1]})"
            if beside
            else ("is damaged, compressed, or contains more than tensors")
        )
        raise WeightsError(f"{path.name} {reason}: give a safetensors file or a bare state dict") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name} holds a {type(content).__name__}, not named tensors: give a state dict")
    return content


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: with the length of a header, and the header, which is JSON.

    What torch writes begins as an archive or as a pickle, and is nothing of that kind.
    """
    with path.open("rb") as file:
        start = file.read(9)
    is_torch = start.startswith((b"PK", b"\x80"))
    return start[8:] == b"{" or (path.suffix == ".safetensors" and not is_torch)


def find_weights(
    content: Mapping[str, Any],
    whole: Mapping[str, Tensor],
    headless: Mapping[str, Tensor],
    backbone: Mapping[str, Tensor],
    convert: Callable[[Tensors], Tensors],
    file: str,
    model: str,
) -> FoundWeights:
    """Find a backbone's tensors in the content of a file.

    `whole` is the state of timm's model with a classifier, `headless` that without one, `backbone` the part of it that
    is wanted, and `convert` timm's conversion of older formats. `file` and `model` are their names for people. Raises
    WeightsError if a tensor is missing or of another shape or kind, or if the file holds the weights more than once. A
    table of positions may be of another size.
    """
    wanted = {name: tensor for name, tensor in whole.items() if name in backbone}
    entries = dict(_entries(content))
    if not entries:
        raise WeightsError(f"{file} holds no named tensors: give a safetensors file or a state dict")
    places = [place for entry, tensors in entries.items() for place in _places(entry, tensors, wanted)]
    how = ""
    if not (complete := _complete(places, wanted)):
        converted = [place for entry, tensors in entries.items() for place in _places(entry, convert(tensors), wanted)]
        if complete := _complete(converted, wanted):
            how = "converted by timm from an older format"
        elif not places and (in_order := _in_order(entries, headless)):
            complete, how = [in_order], "by order and shape, since no name is timm's"
    if not complete:
        raise WeightsError(_missing(places, entries, wanted, file, model))
    _refuse_valueless(complete, wanted, file)
    place = _only(complete, wanted, file)
    tensors = place.by_timm_name(wanted)
    _check_tensors(tensors, wanted, file, model)
    origin = ", ".join(filter(None, [f"{len(tensors)} tensors from {file}", str(place), how]))
    left_out = _left_out(content, place, wanted, [name for name in whole if name not in headless])
    resized = [name for name, tensor in tensors.items() if tensor.shape != wanted[name].shape]
    further = {"resampled by timm": _first(resized), "left out": left_out}
    return FoundWeights(tensors, "; ".join([origin, *(f"{what}: {names}" for what, names in further.items() if names)]))


def _entries(content: Mapping[Any, Any], path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Tensors]]:
    """Every mapping in a file that holds named tensors, by its path. Raises WeightsError if it is nested too deeply."""
    if depth == 0:
        raise WeightsError(f"{path[:200]}… is an entry inside {_DEPTH} others: save the weights alone")
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        if isinstance(value, list | tuple):
            value = {str(number): each for number, each in enumerate(value) if isinstance(each, Mapping)}
        if isinstance(name, str) and isinstance(value, Mapping):
            yield from _entries(value, f"{path}.{name}".removeprefix("."), depth - 1)


def _places(entry: str, tensors: Tensors, wanted: Mapping[str, Tensor]) -> list[_Place]:
    """The prefixes in an entry under which there are wanted names, the one with most of them first."""
    prefixes: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if (suffix := ".".join(parts[start:])) in wanted:
                prefixes[name.removesuffix(suffix)] += 1
    return [_Place(entry, prefix, tensors) for prefix, _ in prefixes.most_common()]


def _complete(places: list[_Place], wanted: Mapping[str, Tensor]) -> list[_Place]:
    needed = {name for name in wanted if not name.endswith(_COUNTER)}
    return [place for place in places if needed <= place.by_timm_name(wanted).keys()]


def _in_order(entries: Mapping[str, Tensors], wanted: Mapping[str, Tensor]) -> _Place | None:
    """The entry whose first tensors have the shapes of a whole backbone in order. Only a classifier may follow them."""
    shapes = [_shape(tensor) for tensor in wanted.values()]
    for entry, tensors in entries.items():
        values = list(tensors.values())
        rest = values[len(shapes) :]
        if (
            [_shape(value) for value in values[: len(shapes)]] == shapes
            and len(rest) <= 2
            and _same_parts(tensors, wanted)
        ):
            named = dict(zip(wanted, values, strict=False))
            others = dict(list(tensors.items())[len(shapes) :])
            return _Place(entry, "", named | others)
    return None


def _same_parts(tensors: Tensors, wanted: Mapping[str, Tensor]) -> bool:
    """Whether no name says that a tensor is another part of its layer than the wanted one in its place."""
    pairs = ((_part(other), _part(name)) for other, name in zip(tensors, wanted, strict=False))
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _part(name: str) -> str | None:
    """The part of a layer that a tensor's name tells: a weight, a bias, a mean or a variance."""
    words = re.split(r"[^a-z]", name.lower())
    return next((part for word in reversed(words) if (part := _PARTS.get(word)) is not None), None)


def _only(places: list[_Place], wanted: Mapping[str, Tensor], file: str) -> _Place:
    """The place to take the weights from: the averaged weights (EMA), by their names, where a file has both."""
    averaged = [place for place in places if _AVERAGED & _words(f"{place.entry}.{place.prefix}")]
    candidates = averaged or places
    first = candidates[0].by_timm_name(wanted)
    for other in candidates[1:]:
        if any(not torch.equal(first[name], value) for name, value in other.by_timm_name(wanted).items()):
            raise WeightsError(
                f"{file} holds the weights more than once ({'; '.join(str(place) or 'bare' for place in candidates)}): "
                "save those to start from alone"
            )
    return candidates[0]


def _words(name: str) -> set[str]:
    """The words of a name, in small letters: those of `modelEMA.state_dict` are model, ema, state and dict."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def _refuse_valueless(places: list[_Place], wanted: Mapping[str, Tensor], file: str) -> None:
    """Raises WeightsError for wanted tensors that are not stored as plain rows of numbers."""
    for place in places:
        for name, tensor in place.by_timm_name(wanted).items():
            if (form := _form(tensor)) is not None:
                raise WeightsError(
                    f"{file} has {place.prefix}{name} as {form}: save every tensor with all of its values"
                )


def _form(tensor: Tensor) -> str | None:
    """How a tensor is stored whose values cannot be copied as they are. None for a plain one."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_meta:
        return "a tensor without values (meta)"
    if tensor.is_quantized:
        return f"a quantized tensor ({str(tensor.dtype).removeprefix('torch.')})"
    return None if tensor.layout == torch.strided else f"a sparse tensor ({str(tensor.layout).removeprefix('torch.')})"


def _shape(tensor: Tensor) -> torch.Size | None:
    return None if tensor.is_nested else tensor.shape


def _check_tensors(tensors: Tensors, wanted: Mapping[str, Tensor], file: str, model: str) -> None:
    wrong = [
        f"{name} is {_kind(tensor)} instead of {_kind(wanted[name])}"
        for name, tensor in tensors.items()
        if not fits(name, tensor, wanted[name])
    ]
    if wrong:
        raise WeightsError(f"{file} does not fit {model}: {_first(wrong)}")
    # In the model's own number format, in which a large number of another one may be infinite.
    broken = [name for name, tensor in tensors.items() if not bool(tensor.to(wanted[name].dtype).isfinite().all())]
    if broken:
        raise WeightsError(
            f"{file} has values that are not finite, NaN or infinity, in {_first(broken)}: give weights of a "
            "model that did not diverge"
        )


def fits(name: str, tensor: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor has the kind and the shape that is wanted. Tables of positions may be of another size."""
    if tensor.is_floating_point() != wanted.is_floating_point():
        return False
    if name.endswith(_POSITIONS):  # the last dimension is that of heads or channels
        return tensor.ndim == wanted.ndim and tensor.shape[-1] == wanted.shape[-1]
    return tensor.shape == wanted.shape


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _missing(
    places: list[_Place], entries: Mapping[str, Tensors], wanted: Mapping[str, Tensor], file: str, model: str
) -> str:
    if not places:
        theirs = [name for tensors in entries.values() for name in tensors]
        return (
            f"{file} does not hold the weights of {model}: it has {_first(theirs)}, where timm has {_first([*wanted])}"
        )
    best = max(places, key=lambda place: len(place.by_timm_name(wanted)))
    missing = [name for name in wanted if name not in best.by_timm_name(wanted) and not name.endswith(_COUNTER)]
    where = f" ({best})" if str(best) else ""
    return f"{file} does not hold all weights of {model}{where}: it lacks {_first(missing)}"


def _left_out(
    content: Mapping[str, Any], place: _Place, wanted: Mapping[str, Tensor], classifier: Sequence[str]
) -> str:
    """What of a file is not loaded, with the number of classes if a classifier is among it."""
    used = {place.prefix + name for name in wanted}
    beside = [name for name in place.tensors if name not in used]
    if place.entry:
        beside += [str(name) for name in content if not f"{place.entry}.".startswith(f"{name}.")]
    else:
        beside += [str(name) for name in content if name not in place.tensors and not isinstance(content[name], Tensor)]
    of_classifier = [place.tensors.get(place.prefix + name) for name in classifier]
    rows = {tensor.shape[0] for tensor in of_classifier if tensor is not None and _shape(tensor)}
    classes = f" (the file has {rows.pop()} classes)" if len(rows) == 1 else ""
    return _first(beside) + classes if beside else ""


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
