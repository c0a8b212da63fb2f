"""A second device, `second`, on machines that have a CPU alone: its tensors have values, and do not mix with others.

torch keeps a place for devices that others bring, `PrivateUse1`, and a device there may be written in Python. The
values of a tensor on this one lie in a tensor on the CPU, where they are computed, so that results are those of the
CPU, but for the rounding of attention, for which torch has a fused kernel on the CPU alone.

Whatever takes tensors of both devices raises RuntimeError, as it does with a GPU, but for copies from one to the other,
and for single numbers, which torch lets through there too. CPU indices into a tensor on this device raise as well. A
GPU would take them, but would wait for them to be copied, each time. numpy can have none of its tensors. A file with
them can be read by who says to which device.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
_ATEN = torch.ops.aten
_COPIES = {_ATEN.copy_.default, _ATEN._to_copy.default}
_IN_A_FILE = set[int]()  # the addresses of values of tensors on this device that were written to a file


class SecondTensor(Tensor):
    """A tensor on the second device."""

    here: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> SecondTensor:
        layout: dict[str, Any] = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        with torch.inference_mode(values.is_inference()):  # a view of an ordinary tensor is one in inference mode, too
            tensor: SecondTensor = Tensor._make_wrapper_subclass(
                cls, values.size(), dtype=values.dtype, device=torch.device(NAME, 0), **layout
            )
        tensor.here = values
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        _refuse_mixed(func, tree_leaves((args, given)))
        goes_to_the_cpu = "device" in given and torch.device(given["device"] or NAME).type == "cpu"
        found = func(*_on_cpu(args), **_on_cpu(given | ({"device": torch.device("cpu")} if "device" in given else {})))
        if goes_to_the_cpu or (func is _ATEN.copy_.default and not isinstance(args[0], SecondTensor)):
            return found
        return return_and_correct_aliasing(func, args, given, tree_map_only(Tensor, SecondTensor, found))

    def __repr__(self) -> str:  # type: ignore[override]
        return f"SecondTensor({self.here!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        _IN_A_FILE.add(self.here.untyped_storage().data_ptr())
        return self.here.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """As of any device."""
        return self.here.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Raises TypeError, as of a GPU."""
        raise TypeError(f"can't convert a tensor on {self.device} to numpy: use Tensor.cpu() first")


@cache
def second_device() -> torch.device:
    """The device, which is known to torch from the first call on, until this process ends."""
    _setup_privateuseone_for_python_backend(NAME, _Device())
    library = torch.library.Library("aten", "IMPL")
    for name in ("empty.memory_format", "empty_strided"):
        packet, _, overload = name.partition(".")
        library.impl(name, _new(getattr(getattr(_ATEN, packet), overload or "default")), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    torch.serialization.register_package(0, _tag, _refuse_to_restore)
    _LIBRARIES.append(library)
    return torch.device(NAME, 0)


_LIBRARIES = list[torch.library.Library]()  # what they hold is gone with them


def tensors_on_it() -> int:
    """How many tensors on the device Python still holds."""
    gc.collect()
    return sum(type(held) is SecondTensor for held in gc.get_objects())


class _Device:
    """What torch asks of a device: there is one, and it draws no random numbers of its own."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False


def _refuse_mixed(func: Any, values: Sequence[object]) -> None:
    others = [value for value in values if isinstance(value, Tensor) and not isinstance(value, SecondTensor)]
    if func not in _COPIES and any(other.ndim > 0 for other in others):
        raise RuntimeError(f"{func} takes tensors on the device {NAME} and on the CPU: move them to one of both")


def _on_cpu(values: Any) -> Any:
    return tree_map_only(SecondTensor, lambda tensor: tensor.here, values)


def _new(make: Any) -> Callable[..., SecondTensor]:
    def make_there(*args: Any, **kwargs: Any) -> SecondTensor:
        return SecondTensor(make(*args, **kwargs | {"device": torch.device("cpu"), "pin_memory": False}))

    return make_there


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """How torch fills a tensor that it makes of Python's numbers."""
    _on_cpu(target).copy_(_on_cpu(source))
    return target


def _tag(storage: Any) -> str | None:
    """The device of values in a file."""
    return NAME if storage.device.type == "cpu" and storage.data_ptr() in _IN_A_FILE else None


def _refuse_to_restore(storage: object, location: str) -> None:
    """Raises RuntimeError for values of this device that are read without saying to which device."""
    if location == NAME:
        raise RuntimeError(f"the file has tensors on the device {NAME}, which the reader may not have: map_location")
