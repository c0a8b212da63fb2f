"""Write the tables of pictures of the demo bundle: `python -m scripts.demo_tables TABLE OUT`.

TABLE is a CSV with the columns of `skin_all.csv`: HAM10000 as `ham` and `ham_…` in the column `source`, other archives,
and the diagnosis in `dx`. OUT gains data sets whose pictures are links to those of TABLE:

- `all`: every source. Of the nevi of `ham_new_lesion` and `isic_msk` only as many lesions are kept as make the nevi's
  share of the benign pictures that of `ham`.
- `ham`: those of them that are of HAM10000.
- `without-isic2020` and `without-isic_msk`: train has the pictures of `all` but for one source, and val has all of that
  source, so that val is of hospitals that train does not know.

In the first two, a fifth of the lesions of each label in `ham`'s train become the split `calibration`. Other pictures
of these lesions are left out everywhere.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

CALIBRATION_SHARE = 0.2
KEPT_NEVI = {"ham_new_lesion": 290, "isic_msk": 400}

Row = dict[str, str]


def _groups(rows: list[Row], column: str, value: str) -> list[str]:
    return sorted({row["group"] for row in rows if row[column] == value})


def with_calibration(rows: list[Row], rng: random.Random) -> list[Row]:
    """The rows, with lesions of `ham`'s train in the split `calibration`."""
    train = [row for row in rows if row["source"] == "ham" and row["split"] == "train"]
    held: set[str] = set()
    for label in ("benign", "malignant"):
        groups = _groups(train, "label", label)
        held |= set(rng.sample(groups, round(CALIBRATION_SHARE * len(groups))))
    moved = []
    for row in rows:
        if row["group"] in held and row["split"] == "train":
            if row["source"] == "ham":
                moved.append({**row, "split": "calibration"})
        else:
            moved.append(row)
    return moved


def with_fewer_nevi(rows: list[Row], rng: random.Random) -> list[Row]:
    """The rows without most nevi of two sources, whose benign pictures are nearly all nevi."""
    train = [row for row in rows if row["split"] == "train" and row["dx"] == "nv"]
    kept: dict[str, set[str]] = {}
    for source, count in KEPT_NEVI.items():
        groups = _groups(train, "source", source)
        kept[source] = set(rng.sample(groups, min(count, len(groups))))
    left_out = {row["path"] for row in train if row["source"] in kept and row["group"] not in kept[row["source"]]}
    return [row for row in rows if row["path"] not in left_out]


def without(source: str, kept: list[Row], rows: list[Row]) -> list[Row]:
    """Train of the kept rows but for one source, and all rows of that source as val."""
    train = [row for row in kept if row["split"] == "train" and row["source"] != source]
    return train + [{**row, "split": "val"} for row in rows if row["source"] == source]


def _write(rows: list[Row], pictures: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in {Path(row["path"]).parts[0] for row in rows}:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to((pictures / name).resolve(), target_is_directory=True)


def main(arguments: list[str]) -> int:
    table, out = map(Path, arguments)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    every = with_fewer_nevi(with_calibration(rows, random.Random(24)), random.Random(25))  # noqa: S311
    _write(every, table.parent, out / "all")
    _write([row for row in every if row["source"].startswith("ham")], table.parent, out / "ham")
    for source in ("isic2020", "isic_msk"):
        _write(without(source, every, rows), table.parent, out / f"without-{source}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
