"""The recipe of a run of seconds: small pictures, with MixUp, dropout, drop-path, BatchNorm statistics and EMA."""

from __future__ import annotations

CHANGES = (
    *("checkpoint_updates=2", "batch_size=4", "batch_norm=sync", "model.dropout=0.2", "model.image_size=[32, 32]"),
    *("model.swin_options.window_size=2", "model.swin_options.depths=[1, 1, 1]"),
    "model.swin_options.num_heads=[1, 2, 2]",
)
RECIPE = ["smoke", *(word for change in CHANGES for word in ("-s", change))]
