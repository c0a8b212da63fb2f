"""Whatever a command is given in place of an argument, it ends with a sentence and not with a traceback."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import app.__main__
import app.cli
import training.cli
from training.data.draw import draw_dataset

Main = Callable[[list[str]], int]
NUMBERS = ["", "x", "-1", "0.5x", "nan", "inf", "-inf", "1e999", "9" * 30, "9" * 5000, "0x10", "²", " ", "None"]
NOTHING = ["", "nowhere", "x" * 300, "x" * 5000, "no\udcff", "/dev/null", "/dev/null/x", "file", "binary", "🙂", "*"]
FOLDERS = [*NOTHING, "empty", "loop", "deep.json", "picture.png"]
FILES = [*NOTHING, "folder", "folder.yaml", "loop"]
WORDS = ["", "nosuch", "-1", "no\udcff", " "]
CHANGES = ["", "=", "seed", "seed=[", "seed=-1", "seed=1e99", "stages.9.epochs=1", "stages.²=1", "no.such=1", "model=3"]
CHANGES += ["batch_size=" + "9" * 30, "name.x=1", "seed=2024-13-45", "workers=: -", "rates.cnn=.nan", "rates.cnn=.inf"]
CHANGES += [
    "model.heads=0",
    "model.image_size=[0, 0]",
    "stages=[]",
    "model.no_such=1",
    "seed=!!python/name:os.system x",
]
RECIPES = [*FILES, "broken.yaml", "deep.yaml", "list.yaml", "date.yaml", "binary.yaml", "void.yaml"]
RUNS = [*FOLDERS, "run-classes", "run-recipe", "run-samples", "run-folders", "run-weights"]
FEW = ["run-samples", "empty", "run-weights"]  # where a bundle is read first, which takes a while
# A folder to write must be new or empty; where old results are replaced, it must be a folder.
NEW_FOLDERS = ["file", "file/below", "full", "/dev/null", "/proc/none", "x" * 300]
OUT_FOLDERS = ["file", "file/below", "/dev/null", "/proc/none", "x" * 300]

# What each argument of each command is, by its name there, and a value with which the command would go on.
TRAINING: dict[str, dict[str, tuple[list[str], str | None]]] = {
    "plan": {"recipe": (RECIPES, "smoke"), "changes": (CHANGES, None), "classes": (["1", "0", *NUMBERS], None)},
    "fit": {"recipe": (RECIPES, "smoke"), "changes": (CHANGES, None), "data": (FOLDERS, "data")},
    "evaluate": {"bundle": (FOLDERS, "bundle"), "data": (FEW, "data"), "split": (WORDS, None)},
    "explain-eval": {"bundle": (FOLDERS, "bundle"), "data": (FEW[:1], "data"), "split": (WORDS, None)},
    "localisation": {"bundle": (FOLDERS, "bundle"), "data": (FEW[:1], "data"), "split": (WORDS, None)},
    "shuffled-labels": {"bundle": (FOLDERS, "bundle"), "data": (FEW[:1], "data"), "seed": (NUMBERS, None)},
    "export": {
        "train_run": (RUNS, "nowhere"),
        "bundle": (NEW_FOLDERS, "new"),
        "card": (FILES, None),
        "positive": (WORDS, None),
    },
    "compile": {"source": (FOLDERS, "nowhere"), "bundle": (NEW_FOLDERS, "new"), "data": (FOLDERS, None)},
    "trust": {
        "source": (FOLDERS, "bundle"),
        "data": (FEW[:1], "data"),
        "bundle": (NEW_FOLDERS, "new"),
        "split": (WORDS, None),
        "inside": (NUMBERS, None),
    },
    "ablate": {"recipe": (RECIPES, "smoke"), "changes": (CHANGES, None), "data": (FEW[1:2], "data")},
    "doctor": {"data": (FOLDERS, "data")},
    "draw-data": {"out": (OUT_FOLDERS, "new"), "count": (["2", "0", *NUMBERS], None), "seed": (NUMBERS, None)},
}
TRAINING["recalibrate"] = TRAINING["trust"]
TRAINING["plan"] |= {"pictures": (["-5", "0", *NUMBERS], None)}
TRAINING["fit"] |= {"out": (NEW_FOLDERS, "new"), "track": (WORDS, None), "skip_unreadable": (NUMBERS, None)}
TRAINING["evaluate"] |= {"out": (OUT_FOLDERS[:2], "out"), "against": (FOLDERS, None)}
TRAINING["explain-eval"] |= {"out": (OUT_FOLDERS[:1], "out"), "pictures": (["0", *NUMBERS], None)}
TRAINING["localisation"] |= {"out": (OUT_FOLDERS, "out")}
TRAINING["shuffled-labels"] |= {"epochs": (["0", *NUMBERS], None), "pictures": (["0", *NUMBERS], None)}
TRAINING["shuffled-labels"] |= {"out": (["file/below", "/proc/none/x"], None)}
TRAINING["ablate"] |= {
    "out": (OUT_FOLDERS[:1], "new"),
    "seeds": (["1", "0", *NUMBERS], None),
    "variants": (WORDS, None),
    "trunk": (FOLDERS, None),
}
APP: dict[str, dict[str, tuple[list[str], str | None]]] = {
    "serve": {"host": (["http://x", "a b", "a..b", "x" * 300, "no\udcff", "192.0.2.1"], None), "port": (NUMBERS, None)},
    "predict": {"pictures": (["no\udcff", "folder"], "picture.png")},
    "batch": {
        "inputs": (["", "nowhere", "x" * 300, "x" * 5000, "no\udcff", "empty", "loop", "*.absent"], "picture.png"),
        "out": (NEW_FOLDERS, "new"),
        "column": (WORDS, None),
        "explain": (WORDS, None),
        "ray": (["", " ", "nowhere:1"], None),
    },
    "check": {"bundle": (FOLDERS, "bundle")},
    "health": {"port": (["0", *NUMBERS], None)},
    "new-key": {
        "name": (["", "a b", "no\udcff", "x" * 300], "me"),
        "file": (["folder", "file", "deep.json"], "k"),
    },
    "setup": {"folder": (["file", "file/below", "/proc/none", "x" * 300], "new")},
}
APP["serve"] |= {"bundle": (FOLDERS, "bundle")}
APP["batch"] |= {"bundle": (FOLDERS, "bundle"), "coverage": (["0", "1", *NUMBERS], None)}
APP["batch"] |= {"max_failures": (["101%", "-1%", "%", *NUMBERS], None), "part_rows": (["0", *NUMBERS], None)}
APP["predict"] |= {"bundle": (FOLDERS, "bundle")}
APP["predict"] |= {
    option: (["overlay.png"], None) for option in ("gradcam", "attention", "tokens", "novelty")
}  # that of another
APP["predict"] |= {"explain": (["file/below"], None)}
APP["predict"] |= {option: (WORDS, None) for option in ("layer", "branch", "method", "fuse", "detail")}
APP["predict"] |= {option: (["no\udcff"], None) for option in ("target", "against")}
APP["predict"] |= {"coverage": (["0", "1", *NUMBERS], None)}
APP["predict"] |= {"similar": (["0", "101", *NUMBERS], None)}
APP["predict"] |= {"token_stage": (["0", "3", *NUMBERS], None)}
APP["new-key"] |= {"right": (WORDS, None), "requests_per_minute": (["0", *NUMBERS], None)}
APP["new-key"] |= {"concurrent": (["0", *NUMBERS], None)}
COMMANDS = [("training", name) for name in TRAINING] + [("app", name) for name in APP]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """What the values above name."""
    folder = tmp_path_factory.mktemp("nonsense")
    draw_dataset(folder / "data", 8, seed=0)
    (folder / "bundle").symlink_to(tiny_bundle)
    (folder / "picture.png").write_bytes(next((folder / "data").rglob("*.png")).read_bytes())
    for name in ("folder", "empty", "full", "folder.yaml", *(name for name in RUNS if name.startswith("run-"))):
        (folder / name).mkdir()
    (folder / "full" / "note").write_text("mine")
    (folder / "loop").symlink_to("loop")
    contents = {"file": b"text", "binary": b"\xff\x00\xfe", "deep.json": b"[" * 100_000, "broken.yaml": b"name: ["}
    contents |= {"deep.yaml": b"[" * 5000, "list.yaml": b"- 1", "date.yaml": b"name: 2024-13-45", "void.yaml": b""}
    contents |= {"binary.yaml": b"\xff\x00\xfe"}
    for name in ("classes", "recipe", "samples", "weights"):
        run = {"classes.json": b'["a", "b"]', "recipe.yaml": b"name: x", "samples.csv": b"path,label,split\nx,a,val"}
        run |= {"ema.safetensors": b"\xff" * 100}
        broken = {"classes": "classes.json", "recipe": "recipe.yaml", "samples": "samples.csv"}.get(name)
        contents |= {f"run-{name}/{file}": b"\xff[" if file == broken else content for file, content in run.items()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name in ("classes.json", "recipe.yaml", "samples.csv"):
        (folder / "run-folders" / name).mkdir()
    return folder


def parser_of(package: str, command: str) -> argparse.ArgumentParser:
    whole = {"training": training.cli, "app": app.cli}[package].make_parser(package)
    (subcommands,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    parser: argparse.ArgumentParser = subcommands.choices[command]
    return parser


def actions(package: str, command: str) -> dict[str, argparse.Action]:
    """Every argument of a command that takes a value."""
    return {action.dest: action for action in parser_of(package, command)._actions if action.nargs != 0}


def lines(package: str, command: str) -> Iterator[list[str]]:
    """The command with nonsense in place of one argument, and what it needs in place of the others."""
    table = {"training": TRAINING, "app": APP}[package][command]
    options = actions(package, command)
    overlay = ["--explain", "overlay.png"] if command == "predict" else []
    for name, (wrong, _) in table.items():
        for value in wrong:
            words, positional = [], []
            for other, (_, right) in table.items():
                chosen = value if other == name else right
                if chosen is None:
                    continue
                if options[other].option_strings:
                    words.append(f"{options[other].option_strings[0]}={chosen}")
                else:
                    positional.append(chosen)
            shown = overlay if name not in ("explain", "token_stage") else []
            yield [command, *words, *shown, *(["--", *positional] if positional else [])]


@pytest.mark.parametrize(("package", "command"), COMMANDS)
def test_nonsense_ends_a_command_with_a_sentence(
    package: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    main: Main = {"training": training.cli.main, "app": app.__main__.main}[package]
    tried = 0
    for line in lines(package, command):
        try:
            status = main(line)
        except SystemExit as ended:
            status = int(str(ended.code))
        said = capsys.readouterr().err
        assert status != 0, line
        assert "Traceback" not in said and len(said.split()) > 3, (line, said)
        tried += 1
    assert tried >= (4 if command == "setup" else 15)


@pytest.mark.parametrize(("package", "command"), COMMANDS)
def test_every_argument_is_tried(package: str, command: str) -> None:
    table = {"training": TRAINING, "app": APP}[package][command]
    assert actions(package, command).keys() == table.keys(), "say in this file what the argument is"


@pytest.mark.parametrize(("package", "command"), COMMANDS)
def test_no_empty_text_is_taken_for_the_working_folder(package: str, command: str) -> None:
    for name, action in actions(package, command).items():
        assert action.type is not Path, f"{name}: the type is given_path"


def test_every_command_is_tried() -> None:
    for package, module in (("training", training.cli), ("app", app.cli)):
        whole = module.make_parser(package)
        (subcommands,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
        assert {command for named, command in COMMANDS if named == package} == subcommands.choices.keys()
