"""The page docs/measured/ablation.md, from the `ablation.json` of several calls of `fusionlens-train ablate`."""

from __future__ import annotations

import json
from pathlib import Path

from training.evaluation.comparison import HOW_TO_READ, ablation_text

_INTRODUCTION = f"""\
# Does fusion help?

`fusionlens-train ablate` trains the same recipe with different fusions and compares them on the same pictures
([how](../guides/train.md#compare-fusions)). The pictures here are those of the demo bundle, in the tables that
`make demo` writes to `runs/demo-data`. Recipe, trunk and seeds were fixed before the first of these figures was seen.

{HOW_TO_READ}
"""
_PARTS = {
    "heads": """\
## Heads on the trunk of the demo bundle

```
fusionlens-train ablate demo --trunk weights/demo --data runs/demo-data/ham --out runs/heads --seeds 5
```

The trunk of version 2 stays as it is, and only heads are trained, on HAM10000. `late` is the mean of the logits of two
heads that see one branch each. `cnn` and `swin` see one branch alone. In `cnn_queries`, the CNN's tokens query the
Swin's, and `both_query` is the mean of both directions. All of them overfit, since they see no augmentation: the demo's
own head, which was trained together with the trunk, has an AUROC of 0.911.
""",
    "whole": """\
## From end to end

```
fusionlens-train ablate demo --data runs/demo-data/ham --out runs/whole --seeds 2 --variants cross_attention,concat \\
  --set stages.0.epochs=6 --set epoch_pictures=2000 --set start.cnn.weights=WEIGHTS
```

Everything is trained: the CNN from ImageNet weights (`WEIGHTS`, as for `make demo`), the Swin from random ones. So each
head has a trunk that grew with it, whereas the trunk above grew with cross-attention. A run has 12,000 draws, a third
of the first of the demo's four.
""",
    "without-isic2020": """\
## At a hospital that no picture is from: SIIM-ISIC 2020

```
fusionlens-train ablate demo --trunk VERSION_1 --data runs/demo-data/without-isic2020 --out runs/without-isic2020 \\
  --seeds 2 --variants cross_attention,concat,cnn,swin
```

Train has HAM10000 and ISIC 2017 and 2018, and val is all of SIIM-ISIC 2020. The trunk is that of version 1, which had
learned from HAM10000 alone; its bundle is `weights/demo` as of commit 8e4b233.
""",
    "without-isic_msk": """\
## At a hospital that no picture is from: ISIC 2017 and 2018

The same with `runs/demo-data/without-isic_msk`: train has HAM10000 and SIIM-ISIC 2020, and val is all of the others.
""",
}


def ablation_page(folder: Path) -> str:
    """Return the page for the files `ablation-….json` in its folder. A part whose file is absent is left out."""
    parts = [_INTRODUCTION]
    for name, words in _PARTS.items():
        file = folder / f"ablation-{name}.json"
        if file.is_file():
            document = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"{words}\n{ablation_text(document)}\n")
    return "\n".join(parts)
