"""Command line: python -m training fit | export."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.config import load_recipe
from training.loop import fit


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("fit", help="train a recipe", epilog="example: python -m training fit demo --data data/skin --out runs/demo")
    run.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    run.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    run.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    run.add_argument("--cnn-weights", type=Path, help="the CNN's weights to start from")
    run.add_argument("--swin-weights", type=Path, help="the Swin's weights to start from")
    args = parser.parse_args()
    weights = {b: p for b in ("cnn", "swin") if (p := getattr(args, f"{b}_weights"))}
    fit(load_recipe(args.recipe), args.data, args.out, weights)


if __name__ == "__main__":
    main()
