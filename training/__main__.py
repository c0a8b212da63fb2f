"""Command line: python -m training fit | export | draw-data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from app.errors import FusionLensError
from training.config import RecipeError, load_recipe
from training.data import DataError
from training.draw import draw_dataset
from training.export import ExportError, export, load_card
from training.loop import fit
from training.pretrained import WeightsError

MISTAKES = (FusionLensError, RecipeError, DataError, ExportError, WeightsError, OSError)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0, or 1 with a sentence on standard error."""
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except MISTAKES as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train and export fusion classifiers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "fit", _fit, "train a recipe", "fit demo --data data/skin --out runs/demo")
    command.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    command.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    command.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    command.add_argument("--cnn-weights", type=Path, help="file with the CNN's weights to start from")
    command.add_argument("--swin-weights", type=Path, help="file with the Swin's weights to start from")

    example = "export runs/demo bundles/demo --data data/skin --card training/recipes/demo_card.yaml"
    command = _command(commands, "export", _export, "write a finished run as a bundle", example)
    command.add_argument("train_run", type=Path, metavar="RUN", help="folder that fit wrote")
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder to write")
    command.add_argument("--data", type=Path, required=True, help="the data that the run was trained on")
    command.add_argument("--card", type=Path, required=True, help="YAML with name, version, licence, data and notes")

    command = _command(commands, "draw-data", _draw, "draw a small labelled set", "draw-data data/drawn --count 64")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    command.add_argument("--count", type=int, default=64, help="pictures in all (default 64)")
    command.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures (default 0)")
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, epilog=f"example: python -m training {example}"
    )
    command.set_defaults(run=run)
    return command


def _fit(args: argparse.Namespace) -> None:
    files = {"cnn": args.cnn_weights, "swin": args.swin_weights}
    fit(load_recipe(args.recipe), args.data, args.out, {branch: file for branch, file in files.items() if file})


def _export(args: argparse.Namespace) -> None:
    bundle = export(args.train_run, args.data, args.bundle, load_card(args.card))
    metrics = bundle.manifest.metrics
    figures = ", ".join(f"{name} {value:.3f}" for name, value in metrics.values.items())
    print(f"{args.bundle}: {bundle.sha256}\n{metrics.split}, {metrics.pictures} pictures: {figures}")


def _draw(args: argparse.Namespace) -> None:
    draw_dataset(args.out, args.count, args.seed)


if __name__ == "__main__":
    sys.exit(main())
