"""The command line of `fusionlens-train`.

Its commands are plan, fit, evaluate, explain-eval, localisation, shuffled-labels, export, compile, trust, recalibrate,
ablate, doctor and draw-data.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from app.arguments import given_path, number_between, whole_number
from app.errors import FusionLensError
from training.data.doctor import examine
from training.data.draw import draw_dataset
from training.data.samples import SPLITS, read_samples
from training.errors import TrainingProblem
from training.evaluation.ablate import HEADS, ablate
from training.evaluation.evaluate import evaluate
from training.evaluation.heads import DIRECTIONS
from training.export.export import CHECKED_PICTURES, compile_bundle, export, load_card
from training.heatmaps.evaluate import DEFAULT_PICTURES as HEATMAP_PICTURES
from training.heatmaps.evaluate import evaluate_heatmaps
from training.heatmaps.localisation import measure_localisation
from training.heatmaps.shuffled_labels import DEFAULT_EPOCHS as SHUFFLED_EPOCHS
from training.heatmaps.shuffled_labels import DEFAULT_PICTURES as SHUFFLED_PICTURES
from training.heatmaps.shuffled_labels import compare_shuffled_labels
from training.loop.fit import fit
from training.loop.plan import plan
from training.output import refuse_within_data, write_text
from training.recipe.load import load_recipe, shipped_recipes
from training.runs.tracking import TRACKERS
from training.trust.command import add_trust
from training.trust.fit import DEFAULT_INSIDE
from training.trust.recalibrate import recalibrate

_COUNT, _SEED = whole_number(1, 1_000_000_000), whole_number(0, 2**63 - 1)
DATA_HELP = "CSV file (path,label[,group,split,mask]), folder with labels.csv, or folder of classes"


def main(arguments: list[str] | None = None, program: str = "fusionlens-train") -> int:
    """Run one command, and return its exit status: 0, or 1 with a sentence on standard error.

    `program` is the name of the command in its usage.
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name may have what the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = make_parser(program).parse_args(arguments)
    return status_of(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    out, data = getattr(args, args.writes, None), args.data if "data" in args else getattr(args, "train_run", None)
    if out is not None and data is not None and not getattr(args, "resume", False):  # what is resumed is there already
        refuse_within_data(out, data)
    return int(args.run(args))


def status_of(command: Callable[[], int]) -> int:
    """Run a command, and return its exit status: 1 with a sentence on standard error if it raises what is expected."""
    try:
        return command()
    except BrokenPipeError:  # the reader of the output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (TrainingProblem, FusionLensError, OSError, MemoryError, RuntimeError, UnicodeError) as error:
        if (sentence := _sentence(error)) is None:
            raise
        print(f"fusionlens-train: {sentence}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _sentence(error: Exception) -> str | None:
    """What to tell of an error, or None for one that nobody expects."""
    if isinstance(error, TrainingProblem | FusionLensError):
        return str(error)
    if isinstance(error, OSError):
        known = error.filename is not None and error.strerror
        return f"{error.filename}: {error.strerror}" if known else str(error)
    if isinstance(error, UnicodeError):
        return f"a text or the name of a file is not UTF-8: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU has too little memory: {str(error).splitlines()[0]}"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"there is too little memory: {(str(error) or 'no more can be had').splitlines()[0]}"
    return None


def make_parser(program: str) -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog=program, description="Train, evaluate and export fusion classifiers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "plan", _plan, "describe the run of a recipe, without data", "plan progressive")
    _add_recipe(command)
    command.add_argument("--classes", type=whole_number(2, 100_000), default=2, help="number of classes (default 2)")
    command.add_argument("--pictures", type=_COUNT, help="number of training pictures, to count the updates")

    command = _command(
        commands, "fit", _fit, "train a model by a recipe", "fit progressive --data data/skin --out runs/mine"
    )
    _add_recipe(command)
    command.add_argument("--data", type=given_path, required=True, help=DATA_HELP)
    command.add_argument(
        "--out", type=given_path, required=True, help="folder of the run: a new one, or with --resume an existing one"
    )
    command.add_argument("--resume", action="store_true", help="continue the run from its newest checkpoint")
    command.add_argument(
        "--skip-unreadable",
        type=whole_number(0, 1_000_000),
        default=0,
        metavar="N",
        help="replace up to N pictures that cannot be read by others of their class (default 0: stop at the first)",
    )
    command.add_argument(
        "--track", action="append", default=[], choices=TRACKERS, help="also log to this tracker; repeatable"
    )

    command = _command(
        commands, "evaluate", _evaluate, "evaluate a bundle on labelled pictures", "evaluate bundles/mine data/skin"
    )
    _add_evaluated(command, "evaluation.json and report.html")
    command.add_argument(
        "--against", type=given_path, metavar="BUNDLE", help="compare with this bundle on the same pictures"
    )

    _add_explanations(commands)

    example = "export runs/mine bundles/mine --card card.yaml --positive malignant"
    command = _command(commands, "export", _export, "export a finished run as a bundle", example)
    command.set_defaults(writes="bundle")
    command.add_argument("train_run", type=given_path, metavar="RUN", help="folder of a run, written by fit")
    command.add_argument("bundle", type=given_path, metavar="BUNDLE", help="folder to write; must be new or empty")
    card_help = "YAML file with name, version, licence, data, notes and, for two classes, the positive class"
    command.add_argument("--card", type=given_path, help=card_help)
    command.add_argument("--positive", metavar="CLASS", help="the positive class of two, unless the card names it")

    example = "compile weights/demo bundles/demo --data data/skin"
    command = _command(commands, "compile", _compile, "copy a bundle with new graphs", example)
    command.set_defaults(writes="bundle")
    command.add_argument("source", type=given_path, metavar="BUNDLE", help="folder of a bundle")
    command.add_argument("bundle", type=given_path, metavar="OUT", help="folder to write; must be new or empty")
    command.add_argument(
        "--data", type=given_path, help=f"check the graphs on {CHECKED_PICTURES} of these pictures too: {DATA_HELP}"
    )

    purpose, example = "copy a bundle with a trust part, fitted to labelled pictures", "data/skin bundles/skin"
    command = _command(commands, "trust", _trust, purpose, f"trust weights/demo {example}")
    _add_fitted(command)
    command.add_argument(
        "--cases",
        action="store_true",
        help="store an index of the split train too, by which similar cases are found: digests of the files, "
        "and labels (default: as the bundle has it)",
    )

    purpose, example = "copy a bundle, fitted to labelled pictures of a new site", "data/new bundles/new"
    _add_fitted(_command(commands, "recalibrate", _recalibrate, purpose, f"recalibrate weights/demo {example}"))

    example = "ablate smoke --data data/drawn --out runs/ablation --seeds 3 --variants concat,cross_attention"
    command = _command(commands, "ablate", _ablate, "train and compare fusions with several seeds", example)
    _add_recipe(command)
    command.add_argument("--data", type=given_path, required=True, help=DATA_HELP)
    command.add_argument(
        "--out", type=given_path, required=True, help="folder for runs and results; an existing one is continued"
    )
    command.add_argument(
        "--seeds", type=whole_number(1, 1000), default=3, help="number of runs of each variant (default 3)"
    )
    command.add_argument(
        "--variants", help=f"cross_attention and at least one other of {','.join(HEADS)} (default: all there are)"
    )
    command.add_argument(
        "--trunk",
        type=given_path,
        metavar="FOLDER",
        help="a bundle or a finished run: train heads alone, on its maps, which takes minutes; only then are there "
        f"the variants {' and '.join(DIRECTIONS)}",
    )

    command = _command(
        commands, "doctor", _doctor, "check a data set; exit with 1 if there are findings", "doctor data/skin"
    )
    command.add_argument("data", type=given_path, metavar="DATA", help=DATA_HELP)

    command = _command(
        commands, "draw-data", _draw, "draw a small synthetic data set", "draw-data data/drawn --count 64"
    )
    command.add_argument("out", type=given_path, metavar="OUT", help="folder to write")
    command.add_argument("--count", type=whole_number(4, 1_000_000), default=64, help="number of pictures (default 64)")
    command.add_argument(
        "--seed",
        type=_SEED,
        default=0,
        help="seed of the random numbers; the same seed draws the same pictures (default 0)",
    )
    return parser


def _add_explanations(commands: Any) -> None:
    """Add the commands that evaluate heatmaps."""
    example = "explain-eval bundles/mine data/skin --pictures 50"
    command = _command(
        commands,
        "explain-eval",
        _explain_eval,
        "measure the faithfulness, localisation and stability of heatmaps",
        example,
    )
    _add_evaluated(command, "explanations.json and explanations.html")
    pictures_help = f"size of the random sample, at half a minute per picture on two cores (default {HEATMAP_PICTURES})"
    command.add_argument("--pictures", type=_COUNT, default=HEATMAP_PICTURES, help=pictures_help)

    example = "localisation bundles/mine data/skin"
    help_text = "measure how much of each heatmap lies in the masks, on the model's grid and in fine detail"
    command = _command(commands, "localisation", _localisation, help_text, example)
    _add_evaluated(command, "localisation.json")

    example = "shuffled-labels bundles/mine data/skin --out shuffled.json"
    help_text = "test whether heatmaps change if the head is trained on shuffled labels"
    command = _command(commands, "shuffled-labels", _shuffled_labels, help_text, example)
    command.add_argument("bundle", type=given_path, metavar="BUNDLE", help="folder of a bundle")
    command.add_argument(
        "data", type=given_path, metavar="DATA", help=f"{DATA_HELP}, with train and val; or a run's folder"
    )
    command.add_argument(
        "--epochs",
        type=whole_number(1, 100_000),
        default=SHUFFLED_EPOCHS,
        help=f"epochs of training for each head (default {SHUFFLED_EPOCHS})",
    )
    pictures_help = f"size of the random sample of val that is explained (default {SHUFFLED_PICTURES})"
    command.add_argument("--pictures", type=_COUNT, default=SHUFFLED_PICTURES, help=pictures_help)
    seed_help = "seed of sample, shuffling and initial weights; results of one seed are of three heads only (default 0)"
    command.add_argument("--seed", type=_SEED, default=0, help=seed_help)
    command.add_argument("--out", type=given_path, help="JSON file for the results, which is replaced")


def _command(commands: Any, name: str, run: Any, help_text: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text, epilog=f"example: fusionlens-train {example}"
    )
    command.set_defaults(run=run, writes="out")
    return command


def _add_recipe(command: argparse.ArgumentParser) -> None:
    recipe_help = f"YAML file, or a shipped recipe: {', '.join(shipped_recipes())}"
    command.add_argument("recipe", metavar="RECIPE", help=recipe_help)
    command.add_argument(
        *("--set", "-s"), dest="changes", metavar="KEY=VALUE", action="append", default=[],
        help="set one key of the recipe, such as stages.1.epochs=20; repeatable",
    )  # fmt: skip


def _add_fitted(command: argparse.ArgumentParser) -> None:
    command.set_defaults(writes="bundle")
    command.add_argument("source", type=given_path, metavar="BUNDLE", help="folder of a bundle")
    data_help = f"{DATA_HELP}, of which training saw train alone; or a run's folder"
    command.add_argument("data", type=given_path, metavar="DATA", help=data_help)
    command.add_argument("bundle", type=given_path, metavar="OUT", help="folder to write; must be new or empty")
    command.add_argument(
        "--split",
        choices=SPLITS,
        help="split to calibrate on (default: calibration or else val; all pictures if there are no splits)",
    )
    command.add_argument(
        "--inside",
        type=number_between(0.5, 0.999),
        metavar="SHARE",
        help="share of these pictures that count as in distribution "
        f"(default {DEFAULT_INSIDE}, or the largest that so few can promise)",
    )


def _add_evaluated(command: argparse.ArgumentParser, files: str) -> None:
    command.add_argument("bundle", type=given_path, metavar="BUNDLE", help="folder of a bundle")
    data_help = f"{DATA_HELP}; or a run's folder, for the split of that run"
    command.add_argument("data", type=given_path, metavar="DATA", help=data_help)
    command.add_argument(
        "--split", choices=SPLITS, help="default: val, or test if there is no other, or all if there are no splits"
    )
    out_help = f"folder for {files}, which are replaced (default: evaluation)"
    command.add_argument("--out", type=given_path, default=Path("evaluation"), help=out_help)


def _plan(args: argparse.Namespace) -> int:
    print(plan(load_recipe(args.recipe, args.changes), args.classes, args.pictures))
    return 0


def _fit(args: argparse.Namespace) -> int:
    recipe = load_recipe(args.recipe, args.changes)
    fit(
        recipe, args.data, args.out, _report, resume=args.resume, track=args.track, skip_unreadable=args.skip_unreadable
    )
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    print(evaluate(args.bundle, args.data, args.split, args.out, args.against).text())
    return 0


def _explain_eval(args: argparse.Namespace) -> int:
    print(evaluate_heatmaps(args.bundle, args.data, args.split, args.pictures, args.out).text())
    return 0


def _localisation(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)  # now, so that a folder that cannot be made fails before the long part
    result = measure_localisation(args.bundle, args.data, args.split)
    print(result.text())
    document = json.dumps(result.document(), indent=1, allow_nan=False)
    write_text(args.out / "localisation.json", document + "\n")
    return 0


def _shuffled_labels(args: argparse.Namespace) -> int:
    if args.out is not None:  # now, so that a folder that cannot be made fails before the long part
        args.out.parent.mkdir(parents=True, exist_ok=True)
    result = compare_shuffled_labels(args.bundle, args.data, args.epochs, args.pictures, args.seed)
    print(result.text())
    if args.out is not None:
        document = json.dumps(result.document(), indent=1, ensure_ascii=False, allow_nan=False)
        write_text(args.out, document + "\n")
    return 0


def _export(args: argparse.Namespace) -> int:
    bundle = export(args.train_run, args.bundle, load_card(args.card) if args.card else None, args.positive)
    metrics = bundle.manifest.metrics
    values = ", ".join(f"{name} {value:.3f}" for name, value in metrics.values.items())
    decision = bundle.manifest.decision
    positive = f", positive class {decision.positive}" if decision is not None else ""
    print(f"{args.bundle}: {bundle.sha256}\n{metrics.split}, {metrics.pictures} pictures{positive}: {values}")
    return 0


def _compile(args: argparse.Namespace) -> int:
    samples = read_samples(args.data) if args.data else []
    bundle = compile_bundle(
        args.source, args.bundle, samples[:: max(1, len(samples) // CHECKED_PICTURES)][:CHECKED_PICTURES]
    )
    print(f"{args.bundle}: {bundle.sha256}")
    return 0


def _trust(args: argparse.Namespace) -> int:
    fitted = add_trust(args.source, args.bundle, args.data, args.split, args.inside, args.cases)
    print(f"{args.bundle}: {fitted.bundle.sha256}\n{fitted.text()}")
    return 0


def _recalibrate(args: argparse.Namespace) -> int:
    done = recalibrate(args.source, args.bundle, args.data, args.split, args.inside)
    print(f"{args.bundle}: {done.bundle.sha256}\n{done.text()}")
    return 0


def _ablate(args: argparse.Namespace) -> int:
    recipe = load_recipe(args.recipe, args.changes)
    variants = None if args.variants is None else args.variants.split(",")
    ablation = ablate(recipe, args.data, args.out, args.seeds, variants, _report, args.trunk)
    if ablation is not None:
        print(ablation.text())
    return 0


def _doctor(args: argparse.Namespace) -> int:
    report = examine(args.data)
    print(report.text())
    return 1 if report.findings else 0


def _draw(args: argparse.Namespace) -> int:
    draw_dataset(args.out, args.count, args.seed)
    return 0


def _report(message: str) -> None:
    print(message, flush=True)
