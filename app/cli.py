"""The commands of fusionlens: serve | predict PICTURE… | check BUNDLE | new-key NAME | setup FOLDER."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from app import __version__
from app.api.keys.keys import Right
from app.drawing.overlay import Style
from app.drawing.png import encode_png
from app.errors import FusionLensError
from app.explain.attention import Layer
from app.explain.merge import FUSES
from app.explain.methods import DEFAULT, METHODS
from app.files import EXAMPLE
from app.predicting.explanation import Detail, Explanation, Question, View
from app.predicting.overlays import draw_over
from app.predicting.prediction import Prediction
from app.server import probe
from app.serving.service import load_predictor
from app.settings import Settings


def main(arguments: list[str] | None = None, program: str = "fusionlens") -> int:
    """Run one command and return the exit status: 0, or 1 with a sentence on standard error.

    `program` is the command as it was called, for its usage.
    """
    args = _parser(program).parse_args(arguments)
    chosen = {name: value for name in ("bundle", "host", "port") if (value := getattr(args, name, None)) is not None}
    try:
        settings = Settings(**chosen)
    except ValidationError as error:
        for fault in error.errors():
            name = ".".join(map(str, fault["loc"]))
            setting = f"setting {name} (FUSIONLENS_{name.upper()}): " if name else ""
            print(f"fusionlens: {setting}{fault['msg']}", file=sys.stderr)
        return 1
    try:
        return int(args.run(args, settings))
    except (FusionLensError, OSError) as error:
        print(f"fusionlens: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="An image classifier that shows its work.")
    parser.add_argument("--version", action="version", version=f"fusionlens {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = _command(commands, "serve", _serve, "serve a bundle over HTTP", "fusionlens serve --port 8080")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 8000)")

    predict = _command(
        commands, "predict", _predict, "classify pictures", "fusionlens predict a.jpg --gradcam overlay.png"
    )
    predict.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    predict.add_argument("--gradcam", type=Path, metavar="OUT.png", help="write the one picture with Grad-CAM here")
    predict.add_argument("--attention", type=Path, metavar="OUT.png", help="write it with where the Swin tokens look")
    predict.add_argument("--tokens", type=Path, metavar="OUT.png", help="write it with how much the Swin tokens matter")
    predict.add_argument("--layer", choices=get_args(Layer), help="the attention's (default: cross)")
    predict.add_argument("--token-stage", type=int, help="height of the tokens' grid (default: the last stage's)")
    overlay = predict.add_argument_group("what --gradcam shows; --tokens knows --target and --against too")
    overlay.add_argument("--branch", choices=get_args(View), help="both branches together, or one (default: fusion)")
    overlay.add_argument("--method", choices=METHODS, help=f"how evidence is measured (default: {DEFAULT})")
    overlay.add_argument("--target", help="the class that it explains (default: the one answered)")
    overlay.add_argument("--against", help="a class to contrast the target with: why this rather than that")
    overlay.add_argument("--fuse", choices=FUSES, help="how the branches become one map (default: the method's)")
    overlay.add_argument("--detail", choices=get_args(Detail), help="fine takes nine passes for a finer map")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")

    check = commands.add_parser(
        "check",
        help="verify a bundle: checksums, weights, one prediction",
        epilog="example: fusionlens check weights/demo",
    )
    check.add_argument("bundle", type=Path, metavar="BUNDLE")
    check.set_defaults(run=_check)
    _add_operation(commands)
    return parser


def _add_operation(commands: Any) -> None:
    probe.add_options(commands.add_parser("health", help=probe.MEANING))  # run without this module: see __main__

    new_key = commands.add_parser(
        "new-key",
        help="make an API key and add its digest to the file of keys",
        epilog="example: fusionlens new-key hospital --file keys.toml --requests-per-minute 600",
    )
    new_key.add_argument("name", metavar="NAME")
    new_key.add_argument("--file", type=Path, metavar="KEYS.toml", help="file of keys (default: the setting keys)")
    new_key.add_argument("--right", action="append", choices=get_args(Right), help="default: predict")
    new_key.add_argument("--requests-per-minute", type=float, metavar="N", help="default: as many as come")
    new_key.add_argument("--concurrent", type=int, metavar="N", help="requests at once (default: as many as come)")
    new_key.set_defaults(run=_new_key)

    setup = commands.add_parser(
        "setup", help="write keys and secrets for a deployment into a folder, where they are not there yet"
    )
    setup.add_argument("folder", type=Path, metavar="FOLDER")
    setup.set_defaults(run=_setup)


def _command(commands: Any, name: str, run: Any, help_text: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, epilog=f"example: {example}")
    command.add_argument("--bundle", type=Path, help="folder of the model (default: the demo bundle)")
    command.set_defaults(run=run)
    return command


def _serve(args: argparse.Namespace, settings: Settings) -> int:
    from app.server.process import serve  # here, since no other command needs a server, which takes its time to load

    return serve(settings)


def _new_key(args: argparse.Namespace, settings: Settings) -> int:
    from app.server.provision import add_key

    if (file := args.file or settings.keys) is None:
        raise FusionLensError("Where do the keys live? Give --file KEYS.toml, or the setting keys.")
    rights = args.right or ["predict"]
    print(add_key(file, args.name, rights, args.requests_per_minute, args.concurrent))
    print(f"It is shown this once; its digest is in {file}, for the setting keys.", file=sys.stderr)
    return 0


def _setup(args: argparse.Namespace, settings: Settings) -> int:
    from app.server.provision import set_up

    for sentence in set_up(args.folder):
        print(sentence)
    return 0


def _predict(args: argparse.Namespace, settings: Settings) -> int:
    question = _question(args)
    predictor, failed = load_predictor(settings), 0
    predictor.check_gradcam(question)
    if args.attention:
        predictor.check_attention(layer=args.layer or "cross")
    if args.tokens:
        predictor.check_tokens(args.token_stage, args.target, args.against)
    for path in args.pictures:
        try:
            prediction, _ = predictor.predict(predictor.open(path.read_bytes()), explained=args.gradcam is not None)
        except (FusionLensError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"{path}: {reason}", file=sys.stderr)
            failed = 1
            continue
        answer = predictor.answer(prediction)
        if args.json:
            record = {"picture": str(path), "label": answer.label, "probabilities": answer.probabilities}
            print(json.dumps(record, ensure_ascii=False))
        else:
            ranked = ", ".join(f"{name} {probability:.3f}" for name, probability in answer.probabilities.items())
            print(f"{path}: {answer.label} ({ranked})")
        if args.gradcam:
            _write_overlay(args.gradcam, prediction, predictor.gradcam(prediction, question))
        if args.attention:
            looked = predictor.attention(prediction, None, None, layer=args.layer or "cross")
            _write_overlay(args.attention, prediction, looked)
        if args.tokens:
            _write_overlay(
                args.tokens, prediction, predictor.tokens(prediction, args.token_stage, args.target, args.against)
            )
    return failed


def _question(args: argparse.Namespace) -> Question:
    """What is asked of Grad-CAM. Raises FusionLensError for options that belong to a picture that is not asked for."""
    for out in ("gradcam", "attention", "tokens"):
        if getattr(args, out) and len(args.pictures) > 1:
            raise FusionLensError(f"--{out} writes one overlay: give one picture.")
    belongs_to = dict.fromkeys(("branch", "method", "target", "against", "fuse", "detail"), "gradcam")
    belongs_to |= {"layer": "attention", "token_stage": "tokens"}
    if args.tokens:
        del belongs_to["target"], belongs_to["against"]
    for option, out in belongs_to.items():
        if getattr(args, option) is not None and not getattr(args, out):
            flag = option.replace("_", "-")
            raise FusionLensError(f"--{flag} says what the overlay shows: give --{out} OUT.png too.")
    method, detail = args.method or DEFAULT, cast(Detail, args.detail or "grid")
    return Question(args.branch or "fusion", method, args.target, args.against, args.fuse, detail)


def _write_overlay(file: Path, prediction: Prediction, explanation: Explanation) -> None:
    for sentence in (*explanation.notes, *explanation.warnings):
        print(f"{file}: {sentence}", file=sys.stderr)
    file.write_bytes(encode_png(draw_over(prediction, explanation, Style()).picture))


def _check(args: argparse.Namespace, settings: Settings) -> int:
    predictor = load_predictor(settings)
    predictor.warm_up()
    if predictor.engine.token_stages:  # what the service compiles only when it is asked for
        grey, _ = predictor.predict(predictor.open(EXAMPLE.read_bytes()))
        predictor.tokens(grey)
    manifest = predictor.bundle.manifest
    print(
        f"{args.bundle}: good\n"
        f"  model    {manifest.name} {manifest.version}: {', '.join(manifest.classes)}\n"
        f"  sha256   {predictor.bundle.sha256}\n"
        f"  engine   {predictor.engine_version}"
    )
    return 0
