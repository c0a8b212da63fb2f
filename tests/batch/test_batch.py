"""`fusionlens batch` as its users see it: the rows, the sentences, and the exit status."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.api.problems import PROBLEMS
from app.batch.failures import failure_limit
from app.batch.replacing import replacing
from app.batch.rows import REASONS
from app.bundles.reader import read_bundle
from app.drawing.overlay import Style
from app.engines.load import load_engine
from app.models.feature_maps import to_float16
from app.pictures.limits import Limits
from app.predicting.overlays import draw_over
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from tests.support.batch import Rows, assert_same, batch, names, picture, rows_of, start, write_pictures, write_tar
from tests.support.full_disk import files_of_at_most
from tests.support.pictures import png
from tests.support.served_process import ROOT, environment, serving
from tests.support.trusted import write_trusted
from tests.support.waiting import PATIENCE_S, wait_until

HEATMAPS = ("--explain", "gradcam,integrated")


@pytest.fixture(scope="module")
def trusted_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a trust part."""
    return write_trusted(tiny_bundle, tmp_path_factory.mktemp("trusted") / "bundle")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of seven pictures, of which the fourth is damaged and the sixth no picture."""
    paths = write_pictures(tmp_path / "in", 7)
    paths[3].write_bytes(paths[3].read_bytes()[:150])
    paths[5].write_bytes(b"GIF88a, almost")
    return tmp_path / "in"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command has said on standard error, in one sentence."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fusionlens: "), line
    return line.removeprefix("fusionlens: ")


def test_there_is_a_row_for_every_picture_in_the_order_of_the_inputs(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_tar(tmp_path / "shard.tar", {"b/1.png": picture(50), "b/1.txt": b"label", "a.png": picture(51)})
    (tmp_path / "list.csv").write_text("path\nin/00002.png\nin/gone.png\nin/00002.png\n", encoding="utf-8")
    out = tmp_path / "out"
    assert batch(tiny_bundle, out, pictures, shard, tmp_path / "list.csv", "--part-rows", "4") == 0
    rows = rows_of(out)
    folder = [f"{number:05d}.png" for number in range(7)]
    assert names(rows) == [*folder, "b/1.png", "a.png", "00002.png", "gone.png", "00002.png"]
    assert sorted(path.name for path in (out / "rows").iterdir()) == [f"part-000000{n}.parquet" for n in range(3)]
    errors = {name: row["error"] for name, row in zip(names(rows), rows, strict=True) if row["error"]}
    assert errors == {
        "00003.png": "unreadable-picture",
        "00005.png": "unsupported-media-type",
        "gone.png": "missing-file",
    }
    for row in rows:
        assert (row["label"] is None) is (row["error"] is not None) is (row["error_detail"] is not None)
        assert row["time_ms"] > 0
    assert rows[2]["sha256"] == hashlib.sha256((pictures / "00002.png").read_bytes()).hexdigest()
    assert rows[3]["sha256"] is not None and rows[10]["sha256"] is None
    assert_same([rows[9] | {"path": ""}], [rows[2] | {"path": ""}])
    assert capsys.readouterr().out == f"12 pictures, 3 of them without an answer: {out / 'rows'}\n"


def test_the_answers_are_those_of_the_service(trusted_bundle: Path, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "in", 5)
    Image.open(paths[1]).resize((300, 200)).save(tmp_path / "in" / "large.jpg", quality=90)
    Image.new("L", (20, 700), 9).save(tmp_path / "in" / "narrow.png")
    assert batch(trusted_bundle, tmp_path / "out", tmp_path / "in") == 0
    rows = rows_of(tmp_path / "out")
    with serving(tmp_path, environment(ROOT), "--bundle", str(trusted_bundle)) as served:
        for row in rows:
            body = Path(row["path"]).read_bytes()
            answer = httpx.post(f"{served.address}/predict", files={"file": body}, timeout=PATIENCE_S).json()
            assert row["label"] == answer["label"]
            expected = {each["label"]: each["probability"] for each in answer["probabilities"]}
            assert row["probabilities"] == pytest.approx(expected, abs=1e-5)
            trust = answer["trust"]
            assert row["prediction_set"] == trust["prediction_set"] and row["decision"] == trust["decision"]
            assert row["reasons"] == [reason["code"] for reason in trust["reasons"]]
            assert row["in_distribution"] == trust["in_distribution"] and row["coverage"] == trust["coverage"]
            assert row["novelty_percentile"] == pytest.approx(trust["novelty_percentile"], abs=1e-2)
            assert row["notes"] == answer["picture"]["notes"]
    assert len(rows) == 7 and any(row["notes"] for row in rows)


def test_heatmaps_are_float16_in_the_rows_and_overlays_are_pictures(
    pictures: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert batch(tiny_bundle, out, pictures, *HEATMAPS, "--overlays", "--part-rows", "3") == 0
    bundle = read_bundle(tiny_bundle)
    predictor = Predictor(bundle.without_weights(), load_engine(bundle, "openvino"), Limits(), 1024)
    for row in rows_of(out):
        if row["error"]:
            assert row["heatmap_gradcam"] is row["overlay_gradcam"] is None
            continue
        prediction, _ = predictor.predict(predictor.open(Path(row["path"]).read_bytes()), True)
        for method in ("gradcam", "integrated"):
            explanation = predictor.explain_one(prediction, HeatmapRequest(method=method))
            stored = np.array(row[f"heatmap_{method}"], np.float16)
            assert stored.shape == explanation.heatmap.shape
            np.testing.assert_allclose(stored, to_float16(explanation.heatmap), rtol=2e-3, atol=1e-6)
            with Image.open(out / row[f"overlay_{method}"]) as overlay:
                drawn = draw_over(prediction, explanation, Style()).picture.astype(int)
                assert np.abs(np.asarray(overlay).astype(int) - drawn).max() <= 1
    field = pq.read_schema(out / "rows" / "part-0000000.parquet").field("heatmap_gradcam")
    assert field.type == pa.list_(pa.list_(pa.float16()))


def test_the_default_method_is_the_bundles_and_a_coverage_is_kept(
    pictures: Path, trusted_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert batch(trusted_bundle, out, pictures, "--explain", "default", "--coverage", "0.8") == 0
    rows = rows_of(out)
    assert rows[0]["coverage"] == 0.8 and rows[0]["heatmap_integrated"] is not None


def test_what_a_picture_is_refused_with_has_the_name_of_the_http_api() -> None:
    for error, name in REASONS.items():
        if error in PROBLEMS:
            assert PROBLEMS[error][1] == name
    assert len(REASONS.keys() & PROBLEMS.keys()) == 5


def test_a_limit_of_failures_ends_the_job_and_a_larger_one_goes_on(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, options = tmp_path / "out", ("--part-rows", "2")
    assert batch(tiny_bundle, out, pictures, *options, "--max-failures", "15%") == 1
    assert "2 of 7 pictures have no answer, more than --max-failures 15% allows. The last is" in said(capsys)
    assert names(rows_of(out)) == ["00000.png", "00001.png", "00002.png", "00003.png"]
    assert batch(tiny_bundle, out, pictures, *options, "--max-failures", "0") == 1
    sentence = said(capsys)  # those of written parts count, before another picture is read
    assert "1 of 7 pictures have no answer" in sentence and "The last is" not in sentence
    assert batch(tiny_bundle, out, pictures, *options, "--max-failures", "2") == 0
    assert len(rows_of(out)) == 7


@pytest.mark.parametrize(
    ("text", "total", "most"), [("0", 9, 0), ("5%", 99, 4), ("5%", 100, 5), ("100%", 3, 3), ("0.1%", 1000, 1)]
)
def test_a_limit_of_failures_is_a_number_or_a_share(text: str, total: int, most: int) -> None:
    assert failure_limit(text).most(total) == most


def test_a_finished_job_is_left_as_it_is(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert batch(tiny_bundle, out, pictures) == 0
    before = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    assert batch(tiny_bundle, out, pictures) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()} == before
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_row_of_a_table_that_names_no_file_has_a_row_that_says_so(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("label,path\n0,in/00001.png\n1,\n2\n", encoding="utf-8")
    pq.write_table(pa.table({"path": [None, "in/00002.png"]}), tmp_path / "list.parquet")
    out, tables = tmp_path / "out", (tmp_path / "list.csv", tmp_path / "list.parquet")
    assert batch(tiny_bundle, out, *tables, "--max-failures", "2") == 1
    assert "The last is a row of a table: The row names no file: fill it in" in said(capsys)
    assert batch(tiny_bundle, out, *tables) == 0
    rows = rows_of(out)
    assert [row["error"] for row in rows] == [None, "missing-file", "missing-file", "missing-file", None]
    assert [row["path"] for row in rows[1:4]] == ["", "", ""]


def test_a_part_that_was_removed_is_made_again_and_a_damaged_one_is_told(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, options = tmp_path / "out", ("--part-rows", "3")
    assert batch(tiny_bundle, out, pictures, *options) == 0
    rows, part = rows_of(out), out / "rows" / "part-0000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    capsys.readouterr()
    assert batch(tiny_bundle, out, pictures, *options) == 2
    assert f"{part} is damaged" in said(capsys)
    shutil.copy(out / "rows" / "part-0000002.parquet", part)
    assert batch(tiny_bundle, out, pictures, *options) == 2
    assert "remove it, and its rows are made again." in said(capsys)
    part.write_bytes(b"PAR1" + b"\xff" * 200 + b"PAR1")
    assert batch(tiny_bundle, out, pictures, *options) == 2
    assert f"{part} is damaged" in said(capsys)
    part.unlink()
    assert batch(tiny_bundle, out, pictures, *options) == 0
    assert_same(rows_of(out), rows)
    told = capsys.readouterr().out
    pq.write_table(pq.read_table(part), part, write_statistics=False)  # as another program would write it
    assert batch(tiny_bundle, out, pictures, *options) == 0
    assert capsys.readouterr().out == told


def test_the_pictures_of_a_job_are_those_that_were_there_when_it_began(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard, out = write_tar(tmp_path / "x.tar", {"a.png": picture(1)}), tmp_path / "out"
    given = (pictures, shard, "--part-rows", "1")
    assert batch(tiny_bundle, out, *given, "--max-failures", "0") == 1  # at the fourth picture
    (pictures / "00004.png").unlink()
    (pictures / "00006.png").write_bytes(picture(99))
    (pictures / "00001b.png").write_bytes(picture(98))
    (pictures / "00009.png").write_bytes(picture(97))
    before = shard.stat()
    write_tar(shard, {"a.png": picture(2)})
    capsys.readouterr()
    assert batch(tiny_bundle, out, *given) == 2
    assert said(capsys).startswith(f"{shard} has been changed since the job began: put it back")
    assert len(rows_of(out)) >= 3  # nothing is lost
    write_tar(shard, {"a.png": picture(1)})
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert batch(tiny_bundle, out, *given) == 0
    rows = rows_of(out)
    assert names(rows) == [*(f"{number:05d}.png" for number in range(7)), "a.png"]
    assert rows[4]["error"] == "missing-file" and rows[6]["sha256"] == hashlib.sha256(picture(99)).hexdigest()


def test_relative_paths_start_where_the_job_began(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert batch(tiny_bundle, tmp_path / "out", "in", "--part-rows", "2", "--max-failures", "0") == 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert batch(tiny_bundle, tmp_path / "out", "../in", "--part-rows", "2") == 0
    rows = rows_of(tmp_path / "out")
    assert [row["path"] for row in rows] == [f"in/{number:05d}.png" for number in range(7)]
    assert [row["error"] for row in rows].count("missing-file") == 0


def test_a_name_that_is_not_utf8_has_its_row(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes(picture(1))
    assert batch(tiny_bundle, tmp_path / "out", tmp_path / "in") == 0
    (row,) = rows_of(tmp_path / "out")
    assert row["path"].endswith("/caf\\xe9.png") and row["label"] is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["in", "absent"], "absent cannot be read: No such file or directory."),
        (["in", "*.bmp"], "*.bmp has no picture"),
        (["in", "--column", "path"], "--column names the column"),
        (["list.csv", "--column", "file"], "does not have one column file"),
        (["in", "--overlays"], "name their methods with --explain"),
        (["in", "--bundle", "absent"], "there is no folder absent"),
        (["in", "--out", "in"], "is not empty, and holds no batch job: give a new folder."),
        (["in", "--out", "in/00001.png"], "cannot be used: File exists"),
        (["in", "--coverage", "0.99"], "cannot be promised"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence_and_leaves_no_job(
    arguments: list[str],
    sentence: str,
    pictures: Path,
    trusted_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("path\nin/00001.png\n", encoding="utf-8")
    assert batch(trusted_bundle, Path("out"), *arguments) == 2
    assert sentence in said(capsys)
    assert not Path("out/job.json").exists() and len(list(pictures.iterdir())) == 7
    assert batch(trusted_bundle, Path("out"), "in") == 0  # the folder can be used


@pytest.mark.parametrize(
    "options", [["--explain", "gradcm"], ["--max-failures", "101%"], ["--part-rows", "0"], ["--coverage", "2"]]
)
def test_options_that_there_are_not_are_wrong_use(
    options: list[str], tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch(tiny_bundle, tmp_path / "out", tmp_path, *options) == 2
    assert options[0] in capsys.readouterr().err


def test_wrong_settings_are_wrong_use(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUSIONLENS_DECODERS", "many")
    assert batch(tiny_bundle, tmp_path / "out", tmp_path) == 2
    assert "setting decoders" in capsys.readouterr().err


def test_a_folder_of_another_job_is_left_alone(
    pictures: Path, tiny_bundle: Path, trusted_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert batch(tiny_bundle, out, pictures) == 0
    others: dict[str, tuple[Path, list[str | Path]]] = {
        "inputs": (tiny_bundle, [pictures / "00001.png"]),
        "bundle_sha256": (trusted_bundle, [pictures]),
        "methods": (tiny_bundle, [pictures, "--explain", "gradcam"]),
        "part_rows": (tiny_bundle, [pictures, "--part-rows", "5"]),
    }
    before, rows = (out / "job.json").read_bytes(), rows_of(out)
    capsys.readouterr()
    for fact, (bundle, arguments) in others.items():
        assert batch(bundle, out, *arguments) == 2
        assert f"{out} belongs to another job, whose {fact} is " in said(capsys)
    more = json.dumps({**json.loads(before), "more": 1}).encode()
    for content in (b"{", b"[]", b"[" * 100_000, b'{"format": 2}', more):
        (out / "job.json").write_bytes(content)
        assert batch(tiny_bundle, out, pictures) == 2
        assert "is not what a batch job writes" in said(capsys)
    (out / "job.json").write_text(json.dumps(json.loads(before) | {"folder": 5}), encoding="utf-8")
    with start(tiny_bundle, out, pictures) as job:  # apart, because types are checked at every call in this process
        assert "is not what a batch job writes (its folder is no path)" in job.communicate(timeout=PATIENCE_S)[1]
    assert job.returncode == 2
    assert rows_of(out) == rows


def test_a_list_of_pictures_that_is_damaged_is_told(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, options = tmp_path / "out", (pictures, "--part-rows", "2")
    assert batch(tiny_bundle, out, *options) == 0
    listed = (out / "inputs.parquet").read_bytes()
    (out / "rows" / "part-0000000.parquet").unlink()
    pq.write_table(pa.table({"path": [b"a.png"]}), tmp_path / "other.parquet")
    capsys.readouterr()
    for content, reason in (
        ((tmp_path / "other.parquet").read_bytes(), "not the list of a job's pictures"),
        (listed[:4] + b"\xff" * 100 + listed[104:], "damaged"),
        (listed[:-9], "damaged"),
        (b"", "damaged"),
    ):
        (out / "inputs.parquet").write_bytes(content)
        assert batch(tiny_bundle, out, *options) == 2
        assert f"{out / 'inputs.parquet'} is {reason}" in (sentence := said(capsys))
        assert sentence.endswith("give another folder to begin anew.")


def test_a_folder_with_files_of_the_user_is_left_alone(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    table, notes = mine / "inputs.parquet", mine / ".notes.tmp"
    pq.write_table(pa.table({"path": [str(pictures / "00001.png")], "patient": [1], "label": [0]}), table)
    before = table.read_bytes()
    assert batch(tiny_bundle, mine, table) == 2
    assert said(capsys) == f"{mine} is not empty, and holds no batch job: give a new folder."
    assert [*mine.iterdir()] == [table] and table.read_bytes() == before
    table.unlink()
    notes.write_text("mine")
    assert batch(tiny_bundle, mine, pictures) == 2
    assert [*mine.iterdir()] == [notes]


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = tmp_path / "out", tmp_path / "out" / "rows"
    assert batch(tiny_bundle, out, pictures) == 0
    (out / "job.json").unlink()  # as if it had been killed before this was written
    shutil.rmtree(rows)
    shutil.rmtree(out / "overlays")
    with replacing(out / "inputs.parquet") as file:
        unfinished = Path(file.name)
        shutil.copy(out / "inputs.parquet", unfinished)
    unfinished.write_bytes(b"PAR1")
    assert batch(tiny_bundle, out, pictures) == 0
    assert not unfinished.exists() and len(rows_of(out)) == 7
    (rows / ".notes.tmp").write_text("mine")
    assert batch(tiny_bundle, out, pictures) == 0
    assert (rows / ".notes.tmp").exists()


def test_decoding_settings_belong_to_the_job(
    pictures: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert batch(tiny_bundle, tmp_path / "out", pictures) == 0
    capsys.readouterr()
    monkeypatch.setenv("FUSIONLENS_MAX_FULL_PIXELS", "1000")
    assert batch(tiny_bundle, tmp_path / "out", pictures) == 2
    assert "whose pictures is" in said(capsys)
    assert batch(tiny_bundle, tmp_path / "other", pictures) == 0
    assert {row["error"] for row in rows_of(tmp_path / "other")} >= {"picture-too-large"}


def test_a_full_disk_is_a_limit_and_leaves_nothing_half_written(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, options = tmp_path / "out", ("--part-rows", "3")
    assert batch(tiny_bundle, out, pictures, *options, "--max-failures", "0") == 1
    capsys.readouterr()
    with files_of_at_most(1000):
        assert batch(tiny_bundle, out, pictures, *options) == 1
    assert f"{out / 'rows'}" in (sentence := capsys.readouterr().err) and "File too large" in sentence
    assert [file.name for file in (out / "rows").iterdir()] == ["part-0000000.parquet"]
    assert batch(tiny_bundle, out, pictures, *options) == 0
    assert len(rows_of(out)) == 7


def test_two_processes_do_not_work_in_one_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 400)
    out = tmp_path / "out"
    with start(tiny_bundle, out, tmp_path / "in", "--part-rows", "20") as first:
        wait_until(lambda: list(out.glob("rows/part-*")) or first.poll() is not None)
        first.send_signal(19)  # SIGSTOP: it holds the folder for as long as this takes
        with start(tiny_bundle, out, tmp_path / "in", "--part-rows", "20") as second:
            _, sentence = second.communicate(timeout=PATIENCE_S)
        first.send_signal(18)
        first.communicate(timeout=PATIENCE_S)
    assert second.returncode == 2 and "Another process works on the job" in sentence
    assert first.returncode == 0 and len(rows_of(out)) == 400


def test_decoders_that_are_killed_cost_no_row(tiny_bundle: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 300)
    out = tmp_path / "out"
    with start(tiny_bundle, out, tmp_path / "in", "--part-rows", "25") as job:
        killed = 0
        while job.poll() is None and killed < 5:
            children = psutil.Process(job.pid).children()
            if children and len(list(out.glob("rows/part-*"))) > killed:
                children[killed % len(children)].kill()
                killed += 1
        job.communicate(timeout=PATIENCE_S)
    rows: Rows = rows_of(out)
    assert (job.returncode, len(rows), killed) == (0, 300, 5)
    assert [row["error"] for row in rows] == [None] * 300


STARTED = "import sys; sys.executable = sys.argv.pop(1); from app.__main__ import main; sys.exit(main(sys.argv[1:]))"


def test_a_decoder_that_cannot_be_replaced_ends_the_job_and_it_goes_on(tiny_bundle: Path, tmp_path: Path) -> None:
    out, twice = tmp_path / "out", tmp_path / "twice"
    for path in write_pictures(tmp_path / "in", 3):  # each ends its process, because its time is over
        path.write_bytes(png(6250, 4000, 8, 2, bytes(4000 * (1 + 3 * 6250))))
    starts = f"mkdir {tmp_path}/first || mkdir {tmp_path}/second"
    twice.write_text(f'#!/bin/sh\n({starts}) 2>&- && exec {sys.executable} "$@"\n', encoding="utf-8")
    twice.chmod(0o700)
    settings = {"FUSIONLENS_DECODERS": "2", "FUSIONLENS_DECODER_CPU_S": "0.1"}
    env = environment(ROOT, FUSIONLENS_CACHE=os.environ["FUSIONLENS_CACHE"], **settings)
    arguments: list[str | Path] = ["batch", tmp_path / "in", "--bundle", tiny_bundle, "--out", out]
    ended = subprocess.run(
        [sys.executable, "-c", STARTED, twice, *arguments], env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 1
    assert "none could be started in its place (died). The same command goes on from there.\n" in ended.stderr
    assert batch(tiny_bundle, out, tmp_path / "in") == 0
    assert [row["error"] for row in rows_of(out)] == [None] * 3
