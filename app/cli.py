"""The commands of `fusionlens`: serve | predict | batch | check | health | new-key | setup."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from app import __version__
from app.api.keys.keys import Right
from app.arguments import given_path, number_between, positive_number, whole_number
from app.batch.failures import failure_limit
from app.batch.refusals import JobRefused
from app.cases.index import MOST_CASES, Case
from app.drawing.overlay import Style
from app.drawing.png import encode_png
from app.errors import BadParameter, FusionLensError, InvalidSettings
from app.explain.attention import Layer
from app.explain.merge import MERGE_RULES
from app.explain.methods import METHODS
from app.files import EXAMPLE
from app.options import predictor_options
from app.predicting.assessed import WITHOUT_TRUST
from app.predicting.explanation import Explanation
from app.predicting.overlays import draw_over
from app.predicting.prediction import Prediction
from app.predicting.request import (
    BUNDLE_DEFAULT,
    EVERY_CLASS,
    AttentionRequest,
    Detail,
    ExplanationRequest,
    HeatmapRequest,
    NoveltyRequest,
    TokenRequest,
    View,
)
from app.server import probe
from app.settings import Settings, load_settings
from app.trust.assessment import Assessment

# For each option that shapes an overlay, the options that ask for such an overlay.
_OVERLAYS_OF_OPTION = {
    **dict.fromkeys(("branch", "method", "fuse"), ("explain", "gradcam")),
    "detail": ("explain", "gradcam", "novelty"),
    **dict.fromkeys(("target", "against"), ("explain", "gradcam", "tokens")),
    "layer": ("attention",),
    "token_stage": ("tokens",),
}


def main(arguments: list[str] | None = None, program: str = "fusionlens") -> int:
    """Run one command and return its exit status: 0, or 1 after a sentence on standard error.

    `program` is the name of the command that usage messages show.
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name may have what the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = make_parser(program).parse_args(arguments)
    overrides = {name: value for name in ("bundle", "host", "port") if (value := getattr(args, name, None)) is not None}
    return status_of(lambda: int(args.run(args, load_settings(**overrides))), args.wrong_settings)


def status_of(command: Callable[[], int], wrong_settings: int = 1) -> int:
    """Run a command, and return its exit status: not 0, after a sentence on standard error, if it raises an error.

    Of errors, only what is expected is caught. The status is that of the error, `wrong_settings` for settings that
    cannot be used, and else 1.
    """
    try:
        return command()
    except BrokenPipeError:  # the reader of the output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InvalidSettings as error:
        for sentence in error.sentences:
            print(f"fusionlens: {sentence}", file=sys.stderr)
        return wrong_settings
    except FusionLensError as error:
        print(f"fusionlens: {error}", file=sys.stderr)
        return error.exit_status
    except (OSError, MemoryError, UnicodeError) as error:
        print(f"fusionlens: {_sentence(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _sentence(error: Exception) -> str:
    """What the error says, with the file that it is about."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UnicodeError):
        return f"A text or the name of a file is not UTF-8: {error}"
    return str(error) or "There is too little memory."


def make_parser(program: str) -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog=program, description="An image classifier that explains its answers.")
    parser.add_argument("--version", action="version", version=f"fusionlens {__version__}")
    parser.set_defaults(wrong_settings=1)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = _command(commands, "serve", _serve, "serve a bundle over HTTP", "fusionlens serve --port 8080")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=whole_number(0, 65535), help="port to listen on (default 8000)")

    predict = _command(
        commands, "predict", _predict, "classify pictures", "fusionlens predict a.jpg --explain overlay.png"
    )
    predict.add_argument("pictures", nargs="+", type=given_path, metavar="PICTURE")
    out: dict[str, Any] = {"type": given_path, "metavar": "OUT.png"}
    predict.add_argument("--explain", **out, help="write the picture with its heatmap by the bundle's default method")
    predict.add_argument("--gradcam", **out, help="write the picture with its heatmap by Grad-CAM")
    predict.add_argument("--attention", **out, help="write the picture with the attention of the transformer's tokens")
    predict.add_argument("--tokens", **out, help="write the picture with the saliency of the transformer's tokens")
    predict.add_argument("--novelty", **out, help="write the picture with what is foreign in it, whatever the class")
    predict.add_argument(
        "--similar",
        type=whole_number(1, MOST_CASES),
        metavar="K",
        help="name the K training pictures that each picture resembles most",
    )
    predict.add_argument(
        "--layer",
        choices=get_args(Layer),
        help="layer of --attention: cross-attention or the transformer's last (default: cross)",
    )
    predict.add_argument(
        "--token-stage",
        type=whole_number(1, 100_000),
        help="stage of --tokens, by the height of its grid (default: the last stage)",
    )
    overlay = predict.add_argument_group(
        "what --explain and --gradcam show; --target and --against apply to --tokens too, and --detail to --novelty"
    )
    overlay.add_argument(
        "--branch", choices=get_args(View), help="both branches together, or one of them (default: fusion)"
    )
    overlay.add_argument(
        "--method",
        choices=METHODS,
        help="explanation method (default: the bundle's for --explain, gradcam for --gradcam)",
    )
    overlay.add_argument("--target", help="class to explain (default: the predicted class)")
    overlay.add_argument("--against", help="class to contrast the target with: explain the difference of their logits")
    overlay.add_argument(
        "--fuse", choices=MERGE_RULES, help="rule that merges the branches' maps (default: depends on the method)"
    )
    overlay.add_argument(
        "--detail",
        choices=get_args(Detail),
        help="grid of the map; fine takes nine passes of the model (default: grid)",
    )
    predict.add_argument(
        "--coverage",
        type=number_between(0.5, 0.99),
        help="rate at which the prediction set contains the true class (default: the bundle's)",
    )
    predict.add_argument("--json", action="store_true", help="print one JSON object per picture")

    _add_batch(commands)
    check = commands.add_parser(
        "check",
        help="verify a bundle: checksums, weights, one prediction",
        epilog="example: fusionlens check weights/demo",
    )
    check.add_argument("bundle", type=given_path, metavar="BUNDLE")
    check.set_defaults(run=_check)
    _add_operation(commands)
    return parser


def _add_batch(commands: Any) -> None:
    batch = _command(
        commands,
        "batch",
        _batch,
        "classify any number of pictures into Parquet files",
        "fusionlens batch photos shards/*.tar --out answers --explain gradcam",
    )
    batch.set_defaults(wrong_settings=2)
    batch.add_argument(
        "inputs",
        nargs="+",
        type=given_path,
        metavar="INPUT",
        help="folder, picture, tar file, CSV or Parquet file with a column of paths, or pattern such as 'a/**/*.png'",
    )
    batch.add_argument(
        "--out", required=True, type=given_path, metavar="DIR", help="folder of the result: new, or of the same job"
    )
    batch.add_argument("--column", type=_filled, help="column of paths in CSV and Parquet files (default: path)")
    batch.add_argument(
        "--explain",
        type=_methods,
        default=(),
        metavar="METHOD[,METHOD]",
        help=f"write heatmaps by these methods into every row: {', '.join(METHODS)}, or {BUNDLE_DEFAULT} for the "
        "bundle's own",
    )
    batch.add_argument("--overlays", action="store_true", help="write these heatmaps as pictures too")
    batch.add_argument(
        "--coverage",
        type=number_between(0.5, 0.99),
        help="rate at which the prediction set contains the true class (default: the bundle's)",
    )
    batch.add_argument(
        "--max-failures",
        type=failure_limit,
        metavar="N[%]",
        help="end the job when more pictures than this, or than this share of all, have no answer (default: no limit)",
    )
    batch.add_argument(
        "--ray", type=_filled, metavar="ADDRESS", help="have a Ray cluster do the work, such as auto or 10.0.0.1:6379"
    )
    batch.add_argument(
        "--part-rows", type=whole_number(1, 100_000), default=256, metavar="N", help="rows of a part file (default 256)"
    )


def _methods(text: str) -> tuple[str, ...]:
    """The type of an argument that is a list of explanation methods, each once."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in (*METHODS, BUNDLE_DEFAULT):
            choices = ", ".join((*METHODS, BUNDLE_DEFAULT))
            raise argparse.ArgumentTypeError(f"{name!r} is no explanation method: choose from {choices}")
    return tuple(dict.fromkeys(names))


def _filled(text: str) -> str:
    """The type of an argument that is a text, and not an empty one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give a name")
    return text


def _add_operation(commands: Any) -> None:
    # Only for the usage: __main__ runs this command without importing this module.
    probe.add_options(commands.add_parser("health", help=probe.DESCRIPTION))

    new_key = commands.add_parser(
        "new-key",
        help="create an API key and add its digest to the key file",
        epilog="example: fusionlens new-key hospital --file keys.toml --requests-per-minute 600",
    )
    new_key.add_argument("name", metavar="NAME")
    new_key.add_argument("--file", type=given_path, metavar="KEYS.toml", help="key file (default: the setting keys)")
    new_key.add_argument(
        "--right", action="append", choices=get_args(Right), help="right of the key; repeatable (default: predict)"
    )
    new_key.add_argument(
        "--requests-per-minute", type=positive_number(1e9), metavar="N", help="rate limit (default: none)"
    )
    new_key.add_argument(
        "--concurrent",
        type=whole_number(1, 1_000_000),
        metavar="N",
        help="limit of concurrent requests (default: none)",
    )
    new_key.set_defaults(run=_new_key)

    setup = commands.add_parser("setup", help="write the missing keys and secrets of a deployment into a folder")
    setup.add_argument("folder", type=given_path, metavar="FOLDER")
    setup.set_defaults(run=_setup)


def _command(commands: Any, name: str, run: Any, help_text: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, epilog=f"example: {example}")
    command.add_argument("--bundle", type=given_path, help="folder of the model (default: the demo bundle)")
    command.set_defaults(run=run)
    return command


def _serve(args: argparse.Namespace, settings: Settings) -> int:
    # Imported here because no other command needs a server, which is slow to import.
    from app.server.process import serve

    return serve(with_platform_port(settings))


def with_platform_port(settings: Settings) -> Settings:
    """The settings with the port that a platform, such as Heroku or Cloud Run, names in `PORT`, if none is set."""
    text = os.environ.get("PORT")
    if text is None or "port" in settings.model_fields_set:
        return settings
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise InvalidSettings([f"PORT is {text!r}, but it must be a port, 0 to 65535; FUSIONLENS_PORT goes before it"])
    return settings.model_copy(update={"port": int(text)})


def _new_key(args: argparse.Namespace, settings: Settings) -> int:
    from app.server.provision import add_key

    if (file := args.file or settings.keys) is None:
        raise FusionLensError("No key file: give --file KEYS.toml, or set keys.")
    rights = args.right or ["predict"]
    print(add_key(file, args.name, rights, args.requests_per_minute, args.concurrent))
    print(f"The key is shown only once. Its digest is in {file}, the file for the setting keys.", file=sys.stderr)
    return 0


def _setup(args: argparse.Namespace, settings: Settings) -> int:
    from app.server.provision import set_up

    for sentence in set_up(args.folder):
        print(sentence)
    return 0


def _predict(args: argparse.Namespace, settings: Settings) -> int:
    requests = _requests(args)
    predictor, failed = predictor_options(settings).load_predictor(), 0
    predictor.check_coverage(args.coverage)
    accepted = {out: predictor.accept(request) for out, request in requests.items()}
    if args.similar is not None:
        predictor.check_cases()
    if predictor.bundle.manifest.trust is None and not args.json:
        print(WITHOUT_TRUST, file=sys.stderr)
    for path in args.pictures:
        try:
            prediction, _ = predictor.predict(
                predictor.open(path.read_bytes()), any(one.request.needs_answer_gradient for one in accepted.values())
            )
        except (FusionLensError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"{path}: {reason}", file=sys.stderr)
            failed = 1
            continue
        answer = predictor.answer(prediction)
        assessment = predictor.assess(prediction, args.coverage)
        cases = [] if args.similar is None else predictor.similar(prediction, args.similar)
        if args.json:
            record = {"picture": str(path), "label": answer.label, "probabilities": answer.probabilities}
            trust = {"trust": assessment and asdict(assessment), "trust_note": None if assessment else WITHOUT_TRUST}
            similar = {} if args.similar is None else {"similar": [_without_thumbnail(case) for case in cases]}
            print(json.dumps(record | trust | similar | {"notes": prediction.upload.notes}, ensure_ascii=False))
        else:
            ranked = ", ".join(f"{name} {probability:.3f}" for name, probability in answer.probabilities.items())
            print(f"{path}: {answer.label} ({ranked})")
            if assessment is not None:
                print(f"{path}: {_in_words(assessment)}")
            for case in cases:
                print(f"{path}: similar ({case.similarity:.3f}): {case.label}, {case.name}")
            for note in prediction.upload.notes:
                print(f"{path}: {note}", file=sys.stderr)
        for out, request in accepted.items():
            _write_overlay(out, prediction, predictor.explain(prediction, request)[-1])
    return failed


def _batch(args: argparse.Namespace, settings: Settings) -> int:
    if missing := [name for name in ("pyarrow", "tqdm") if find_spec(name) is None]:
        raise JobRefused(f"fusionlens batch needs {missing[0]}: pip install 'fusionlens[batch]'.")
    if args.ray is not None and find_spec("ray") is None:
        raise JobRefused("--ray needs Ray: pip install 'fusionlens[ray]'.")
    # Imported here because no other command needs pyarrow, which is optional.
    from app.batch.asked import Asked
    from app.batch.command import BatchOptions, run_batch
    from app.batch.decoding import DecodingOptions

    options = BatchOptions(
        inputs=tuple(map(str, args.inputs)),
        out=args.out,
        column=args.column,
        asked=Asked(args.explain, args.overlays, args.coverage),
        max_failures=args.max_failures,
        part_rows=args.part_rows,
        ray=args.ray,
    )
    decoding = DecodingOptions(
        settings.decoders, settings.decoder_max_bytes, settings.decoder_cpu_s, settings.max_body_bytes
    )
    print(run_batch(options, predictor_options(settings), decoding))
    return 0


def _without_thumbnail(case: Case) -> dict[str, Any]:
    return {name: value for name, value in asdict(case).items() if name != "thumbnail"}


def _in_words(assessment: Assessment) -> str:
    """What to do with an answer, and why."""
    reasons = " ".join(reason.detail for reason in assessment.reasons)
    if assessment.decision == "refer":
        return f"refer to a person: {reasons}"
    possible = " or ".join(assessment.prediction_set) or "no class"
    return f"answer: {possible} at a coverage of {100 * assessment.coverage:g} %. {reasons}".rstrip()


def _requests(args: argparse.Namespace) -> dict[Path, ExplanationRequest]:
    """The overlay files to write, each with the request that it shows.

    Raises FusionLensError for two overlays in one file, for several pictures, and for options without their overlay.
    """
    heatmap = partial(_heatmap_request, args)
    make: dict[str, Callable[[], ExplanationRequest]] = {
        "explain": partial(heatmap, BUNDLE_DEFAULT),
        "gradcam": partial(heatmap, "gradcam"),
        "attention": lambda: AttentionRequest(layer=args.layer or "cross"),
        "tokens": lambda: TokenRequest(args.token_stage, args.target, args.against),
        "novelty": lambda: NoveltyRequest(args.detail or "grid"),
    }
    outs: dict[str, Path] = {name: out for name in make if (out := getattr(args, name)) is not None}
    for name in outs:
        if len(args.pictures) > 1:
            raise FusionLensError(f"--{name} writes one overlay: give one picture.")
    if any(_same_file(one, other) for one, other in combinations(outs.values(), 2)):
        raise FusionLensError("Two overlays have the same output file: give each its own.")
    for name, out in outs.items():
        if any(_same_file(out, picture) for picture in args.pictures):
            raise FusionLensError(f"--{name} would overwrite the picture {out}: give another file.")
        if out.suffix.lower() not in ("", ".png"):
            raise FusionLensError(f"--{name} writes a PNG, not {out.suffix}: give OUT.png.")
    for option, names in _OVERLAYS_OF_OPTION.items():
        if getattr(args, option) is not None and not outs.keys() & names:
            flag = option.replace("_", "-")
            raise FusionLensError(f"--{flag} says what the overlay shows: give --{names[0]} OUT.png too.")
    return {out: make[name]() for name, out in outs.items()}


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, by links of any kind too."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _heatmap_request(args: argparse.Namespace, default_method: str) -> HeatmapRequest:
    view: View = args.branch or "fusion"
    detail: Detail = args.detail or "grid"
    if args.target == EVERY_CLASS:
        raise BadParameter(f"An overlay shows one class: name it with --target, in place of {EVERY_CLASS}.")
    return HeatmapRequest((view,), args.method or default_method, args.target, args.against, args.fuse, detail)


def _write_overlay(file: Path, prediction: Prediction, explanation: Explanation) -> None:
    for sentence in (*explanation.notes, *explanation.warnings):
        print(f"{file}: {sentence}", file=sys.stderr)
    png = encode_png(draw_over(prediction, explanation, Style()).picture)
    try:
        file.write_bytes(png)
    except OSError as error:
        if error.filename is None and file.is_file():  # opened and then not written: the disk is full
            file.unlink()
        raise OSError(error.errno, error.strerror, str(file)) from error


def _check(args: argparse.Namespace, settings: Settings) -> int:
    predictor = predictor_options(settings).load_predictor()
    predictor.warm_up()
    # The service compiles these graphs when they are first needed. The check must do it now.
    prediction, _ = predictor.predict(predictor.open(EXAMPLE.read_bytes()))
    predictor.explain_one(prediction, HeatmapRequest(method="ablationcam"))
    if predictor.capabilities.token_stages:
        predictor.explain_one(prediction, TokenRequest())
    manifest = predictor.bundle.manifest
    print(
        f"{args.bundle}: good\n"
        f"  model    {manifest.name} {manifest.version}: {', '.join(manifest.classes)}\n"
        f"  sha256   {predictor.bundle.sha256}\n"
        f"  engine   {predictor.engine_version}"
    )
    return 0
