"""Files are told by their content: whatever can be read is a picture, and everything else is counted and named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from app.pictures.decode import decode
from app.pictures.formats import readable_formats
from training.data.files import no_picture, refuse_unreadable, scan
from training.data.limits import TRAINING_LIMITS
from training.data.samples import DataError, Sample, read_training_set

OTHERS = {
    "scan.dcm": (bytes(128) + b"DICM" + bytes(50), "a DICOM file"),
    "scan": (bytes(128) + b"DICM", "a DICOM file"),
    "map.pgm": (b"P5\n8 8\n255\n" + bytes(64), "a PNM picture"),
    "paper.pdf": (b"%PDF-1.7\n", "a PDF"),
    "page.jpg": (b"<!DOCTYPE html><html>", "a web page"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG picture"),
    "all.zip": (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
    "array.npy": (b"\x93NUMPY\x01\0", "a NumPy file"),
    "empty.png": (b"", "empty"),
    "noise.png": (b"\x01\x02\x03\x04\x05" * 20, "no picture in a known format"),
    "notes.txt": ("für Menschen, ".encode() * 50, "a text file"),
    "riff.webp": (b"RIFF\0\0\0\0WAVEfmt ", "no picture in a known format"),
}


def encoded(format_name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format_name)
    return file.getvalue()


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("name", ["picture", "picture.xyz", "picture.dcm", "picture.txt"])
def test_a_file_is_a_picture_exactly_if_the_decoder_reads_it(format_name: str, name: str, tmp_path: Path) -> None:
    try:
        data = encoded(format_name)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {format_name}")
    (tmp_path / name).write_bytes(data)
    if format_name in readable_formats():
        assert no_picture(tmp_path / name) is None
        assert decode(data, TRAINING_LIMITS).format == format_name
    else:
        assert no_picture(tmp_path / name) == f"an {format_name} picture"


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_picture_is_named(name: str, tmp_path: Path) -> None:
    content, what = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    assert no_picture(tmp_path / name) == what


def test_all_that_was_left_out_is_counted_by_suffix_and_content(tmp_path: Path) -> None:
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1").write_bytes(encoded("PNG"))
        for name, (content, _) in OTHERS.items():
            (tmp_path / folder / name).write_bytes(content)
    data = read_training_set(tmp_path)
    assert len(data.samples) == 2
    (fact,), (finding,) = data.facts, data.findings
    assert fact == "not read: 2 .txt (a text file)"  # a page that pretends to be a picture is worth a finding
    assert f"{2 * (len(OTHERS) - 1)} of {2 * len(OTHERS)} files were left out" in finding.sentence
    for part in ("2 .dcm (a DICOM file)", "2 without a suffix (a DICOM file)", "2 .jpg (a web page)", "2 .png (empty)"):
        assert part in finding.sentence
    assert {*finding.paths} == {tmp_path / folder / name for folder in ("cat", "dog") for name in OTHERS} - {
        tmp_path / folder / "notes.txt" for folder in ("cat", "dog")
    }


def test_what_is_listed_and_cannot_be_read_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    (tmp_path / "b.dcm").write_bytes(OTHERS["scan.dcm"][0])
    samples = [Sample(tmp_path / name, "cat", None, None, None) for name in ("a.png", "b.dcm")]
    refuse_unreadable(samples[:1])
    with pytest.raises(
        DataError, match=r"1 of 2 pictures cannot be read: 1 \.dcm \(a DICOM file\); the first is .*b\.dcm"
    ):
        refuse_unreadable(samples)


def test_hidden_files_and_those_of_systems_are_nobodys_data(tmp_path: Path) -> None:
    for name in (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "__MACOSX/a.png", ".git/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"data")
    folder = scan(tmp_path)
    assert (folder.folders, folder.pictures, folder.left_out) == ((), (), ())
