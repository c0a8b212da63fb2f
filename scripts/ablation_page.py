"""The page docs/measured/ablation.md, from the `ablation.json` of two calls of `fusionlens-train ablate`."""

from __future__ import annotations

import json
from pathlib import Path

from training.evaluation.comparison import ablation_text

_INTRODUCTION = """\
# Does fusion help?

`fusionlens-train ablate` trains the same recipe with different fusions and compares them on the same pictures of val
([how](../guides/train.md#compare-fusions)). This page has two comparisons on the data of the demo bundle: the part from
HAM10000, with 2,963 pictures in train and 375 in val, as `make demo` writes it.
"""
_HEADS = """\
## Heads on a fixed trunk

```
fusionlens-train ablate demo --trunk weights/demo --data runs/demo-data/ham --out runs/heads --seeds 5
```

The trunk of version 2 of the demo bundle stays as it is, and only heads are trained. `late` adds the logits of two
heads that see one branch each, `cnn` and `swin` see one branch alone, `cnn_queries` lets the CNN's tokens query the
Swin's, and `both_query` is the mean of both directions.
"""
_WHOLE = """\
## From end to end

```
fusionlens-train ablate demo --data runs/demo-data/ham --out runs/whole --seeds 2 --variants cross_attention,concat \\
  --set stages.0.epochs=6 --set epoch_pictures=2000 --set start.cnn.weights=WEIGHTS
```

Everything is trained: the CNN from ImageNet weights (`WEIGHTS`, as for `make demo`), the Swin from random ones.
"""


def ablation_page(folder: Path) -> str:
    """Return the page for the JSON files in its folder; the second comparison is left out where its file is absent."""
    parts = [_INTRODUCTION]
    for words, name in ((_HEADS, "ablation-heads.json"), (_WHOLE, "ablation-whole.json")):
        file = folder / name
        if file.is_file():
            document = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"{words}\n{ablation_text(document)}\n")
    return "\n".join(parts)
