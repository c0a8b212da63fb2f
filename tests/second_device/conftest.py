"""The second device for each test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.second_device import second_device, tensors_on_it


@pytest.fixture
def second() -> Iterator[torch.device]:
    """The second device. In the end it has no more tensors than before."""
    device = second_device()
    before = tensors_on_it()
    yield device
    assert tensors_on_it() <= before
