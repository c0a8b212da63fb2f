"""How the other servers read an upload: Pillow and torchvision, as the servers' own examples do."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor
from torchvision import transforms

SIDE_PX = 224
_TRANSFORM = transforms.Compose(
    [
        transforms.Resize(SIDE_PX, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(SIDE_PX),
        transforms.ToTensor(),
    ]
)


def read_tensor(data: bytes) -> Tensor:
    """An upload as the model takes it, float32 `[3, 224, 224]` in [0, 1]."""
    tensor: Tensor = _TRANSFORM(Image.open(io.BytesIO(data)).convert("RGB"))
    return tensor
