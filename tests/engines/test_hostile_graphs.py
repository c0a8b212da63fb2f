"""Graphs whose author means harm, in bundles with the right digests: refused before OpenVINO reads them."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from app.__main__ import main
from app.bundles.graph_names import MAX_XML_BYTES, TOKENS
from app.bundles.reader import read_bundle
from app.engines import graph_xml
from app.engines.load import load_engine
from tests.support.bundles import seal
from tests.support.served_process import ROOT, environment

TRUNK = "trunk.xml"
Change = Callable[[bytes], bytes]


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def replaced(pattern: str, text: str) -> Change:
    """Change the first place in a graph that matches, where `\\1` in the text stands for the pattern's group."""

    def change(xml: bytes) -> bytes:
        changed, count = re.subn(pattern.encode(), text.encode(), xml, count=1, flags=re.DOTALL)
        assert count == 1
        return changed

    return change


def before_net(text: str) -> Change:
    return replaced("<net ", f"{text}<net ")


def at_the_end(text: str) -> Change:
    return replaced("</net>", f"{text}</net>")


def constant(attribute: str, value: str) -> Change:
    """Give the first constant another value of an attribute."""
    return replaced(f'(<data element_type="i64"[^>]* {attribute}=)"[^"]*"', rf'\g<1>"{value}"')


def many_constants(xml: bytes) -> bytes:
    """Let the largest constant be there a thousand times."""
    constants = re.findall(rb'<layer [^>]*type="Const"[^>]*>.*?</layer>', xml, re.DOTALL)
    largest = max(constants, key=lambda layer: int(layer.split(b' size="')[1].split(b'"')[0]))
    copies = [re.sub(rb' id="[0-9]+"', b' id="%d"' % (100_000 + n), largest, count=1) for n in range(1000)]
    return xml.replace(b"</layers>", b"".join(copies) + b"</layers>")


LAUGHS = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
# What is done to the XML of a graph, and what the refusal says.
HOSTILE: dict[str, tuple[Change, str]] = {
    "a document type": (before_net('<!DOCTYPE net SYSTEM "/etc/passwd">'), "a document type"),
    "an external entity": (before_net('<!DOCTYPE net [<!ENTITY e SYSTEM "/etc/passwd">]>'), "a document type"),
    "entities of entities": (before_net(f'<!DOCTYPE net [<!ENTITY e0 "e">{LAUGHS}]>'), "a document type"),
    "a style sheet": (before_net('<?xml-stylesheet href="/etc/passwd"?>'), "processing instruction"),
    "another encoding": (
        replaced(r"<\?xml [^>]*>", '<?xml version="1.0" encoding="latin-1"?>'),
        "as OpenVINO writes it",
    ),
    "UTF-16": (lambda xml: xml.decode().encode("utf-16"), "as OpenVINO writes it"),
    "weights elsewhere": (at_the_end('<rt_info><__weights_path value="w.bin"/></rt_info>'), "'__weights_path'"),
    "weights elsewhere, by a name": (
        at_the_end('<rt_info><info name="__weights_path" value="w.bin"/></rt_info>'),
        "'__weights_path'",
    ),
    "a path for a version": (
        at_the_end('<rt_info><conversion_parameters><framework value="../x"/></conversion_parameters></rt_info>'),
        "could name a file",
    ),
    "a mean in the weights": (
        at_the_end('<pre-process><channel id="0"><mean offset="0" size="-1"/></channel></pre-process>'),
        "'pre-process'",
    ),
    "an inner graph": (replaced(r"(<layer [^>]*>)", r"\1<body><layers/></body>"), "'body'"),
    "data of its own": (replaced(r"(<layer [^>]*>)", r'\1<rt_info><user_data name="a"/></rt_info>'), "'user_data'"),
    "a path in an operation": (
        replaced("<data destination_type=", r'<data location="..\\x" destination_type='),
        "file",
    ),
    "a path for a name": (replaced("<data destination_type=", '<data name="/etc/passwd" destination_type='), "file"),
    "a path for OpenVINO's version": (replaced('(name="OpenVINO Runtime" value=)"[^"]*"', r'\1"/etc/passwd"'), "file"),
    "an unknown attribute": (replaced("<edge ", '<edge weights="1" '), "'weights'"),
    "an extension's operation": (replaced('version="opset1"', 'version="extension"'), "'extension'"),
    "a constant by another name": (replaced('type="Const"', 'type="Constant"'), "operation Constant of opset1"),
    "a constant with content": (replaced('(<data element_type="i64")', r'\1 value="abc"'), "a constant has the"),
    "a constant elsewhere": (constant("offset", "999999999"), "a constant ends at"),
    "a constant before the start": (constant("offset", "-8"), "where a size belongs"),
    "a constant around the end": (constant("offset", "18446744073709551608"), "where a size belongs"),
    "a constant of no bytes": (constant("size", "0"), "has 0 bytes"),
    "a constant of all bytes": (constant("shape", "4294967296,4294967296"), "a constant of i64"),
    "a constant of words": (replaced('<data element_type="i64"', '<data element_type="string"'), "no number"),
    "a constant a thousand times": (many_constants, "more than 3 times as many bytes"),
    "elements without end": (
        at_the_end("<edges>" + "<edge/>" * graph_xml.MAX_MARKS + "</edges>"),
        "tags or attributes",
    ),
    "attributes without end": (
        at_the_end(f"<rt_info {' a=' * graph_xml.MAX_MARKS}/>"),
        "tags or attributes",
    ),
    "sides without end": (constant("shape", "1," * 100 + "1"), "more than 16 sides"),
    "much text": (replaced("</edges>", f"{' ' * MAX_XML_BYTES}</edges>"), "bytes, but at most"),
    "depth": (at_the_end("<a>" * 100_000 + "</a>" * 100_000), "'a'"),
    "ONNX": (lambda _: b"\x08\x07\x12\x07pytorch:\x00", "as OpenVINO writes it"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_graph_that_is_not_like_ours_is_refused(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONLENS_ENGINE", "openvino")
    change, reason = HOSTILE[case]
    (folder / TRUNK).write_bytes(change((folder / TRUNK).read_bytes()))
    seal(folder, (TRUNK,))
    assert main(["check", str(folder)]) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"fusionlens: {TRUNK}: ") and sentence.count("\n") == 1
    assert reason in sentence


def packed(content: bytes = b"", repeated: int = 1) -> bytes:
    """A gzip file of a content that is repeated. It costs its author nothing."""
    packing = zlib.compressobj(wbits=31)
    return b"".join(packing.compress(content) for _ in range(repeated)) + packing.flush()


PACKED: dict[str, tuple[Change, str]] = {
    "a bomb": (lambda xml: packed(b" " * (1 << 20), 64), "its XML has more than 16 MB"),
    "a bomb behind a graph": (lambda xml: xml + packed(b" " * (1 << 20), 64), "not one whole gzip file"),
    "two graphs": (lambda xml: xml + xml, "not one whole gzip file"),
    "half a graph": (lambda xml: xml[: len(xml) // 2], "not one whole gzip file"),
    "a wrong checksum": (lambda xml: xml[:-8] + bytes(8), "cannot be unpacked"),
    "a bomb in a bomb": (lambda xml: packed(packed(b" " * (1 << 20), 64)), "as OpenVINO writes it"),
    "a document type": (
        lambda xml: gzip.compress(before_net('<!DOCTYPE net SYSTEM "x">')(gzip.decompress(xml))),
        "a document type",
    ),
}


@pytest.mark.parametrize("case", PACKED)
def test_a_packed_graph_is_refused_while_it_unpacks(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONLENS_ENGINE", "openvino")
    change, reason = PACKED[case]
    (folder / TOKENS).write_bytes(change((folder / TOKENS).read_bytes()))
    seal(folder, (TOKENS,))
    assert main(["check", str(folder)]) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"fusionlens: {TOKENS}: is not a graph that OpenVINO")
    assert reason in sentence and sentence.endswith("compile it again\n")


CHECKED = """
import sys
from app.__main__ import main
status = main(["check", sys.argv[1]])
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(status, peak_kb)
"""


def checked(bundle: Path, folder: Path) -> tuple[int, int]:
    """The exit status of `fusionlens check` in a process of its own, and the most memory that it had, in MB."""
    env = environment(ROOT, FUSIONLENS_ENGINE="openvino")
    ran = subprocess.run([sys.executable, "-c", CHECKED, bundle], cwd=folder, env=env, capture_output=True, text=True)
    status, peak_kb = ran.stdout.splitlines()[-1].split()
    return int(status), int(peak_kb) >> 10


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="SKIPPED LOUDLY: no /proc to read memory use from")
def test_a_small_file_that_unpacks_to_much_takes_no_more_memory_than_a_good_bundle(
    folder: Path, tmp_path: Path
) -> None:
    status, most_mb = checked(folder, tmp_path)
    assert status == 0
    for name in (TOKENS, TRUNK):
        (folder / name).write_bytes(packed(b" " * (1 << 20), 512))
        assert (folder / name).stat().st_size < 2 << 20
        status, peak_mb = checked(seal(folder, (name,)), tmp_path)
        assert status == 1
        assert peak_mb < most_mb + 2 * (MAX_XML_BYTES >> 20)


WEIGHTS_OF = {"head.xml": "head.bin", "lifted.xml": "lifted.bin"}


def test_what_no_graph_has_is_refused_in_every_place_of_one(tiny_bundle: Path) -> None:
    """Of the next attribute or element that names a file, whoever invents it, no more is known than that it is new."""
    bundle = read_bundle(tiny_bundle)
    graphs = {name: bundle.graph(name) for name in (TRUNK, "head.xml", "lifted.xml", TOKENS)}
    xml = {name: graph_xml.unpack(graph) if name == TOKENS else graph for name, graph in graphs.items()}
    weights = {name: bundle.graph(WEIGHTS_OF.get(name, "trunk.bin")) for name in xml}
    places = 0
    for name, text in xml.items():
        graph_xml.check(text, weights[name])
        root = ElementTree.fromstring(text)
        for group, kept in (("layers", 50), ("edges", 1)):  # the others look the same
            parent = root.find(group)
            assert parent is not None
            del parent[kept:]
        for element in {element.tag: element for element in root.iter()}.values():
            places += 1
            added = ElementTree.SubElement(element, "weights")
            with pytest.raises(ValueError, match="'weights'"):
                graph_xml.check(ElementTree.tostring(root), weights[name])
            element.remove(added)
            for key, value in {"path": "x", **element.attrib}.items():
                if (element.tag in ("net", "layer", "port")) and key in ("name", "names", "output_names"):
                    continue  # names within the graph
                element.set(key, "../x")
                with pytest.raises(ValueError):
                    graph_xml.check(ElementTree.tostring(root), weights[name])
                element.attrib.pop(key) if key == "path" else element.set(key, value)
    assert places > 30


@pytest.mark.slow
def test_a_file_beside_the_process_is_not_taken_for_a_bundles_weights(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO reads `.bin` in the working directory before the weights that it is given."""
    monkeypatch.setenv("FUSIONLENS_ENGINE", "openvino")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".bin").mkdir()  # as some people have one in their home folder
    assert main(["check", str(tiny_bundle)]) == 0
    (tmp_path / ".bin").rmdir()
    (tmp_path / ".bin").write_bytes(bytes(1 << 20))
    capsys.readouterr()
    assert main(["check", str(tiny_bundle)]) == 1
    assert f"OpenVINO would use the file {tmp_path / '.bin'} as weights" in capsys.readouterr().err
    (tmp_path / ".bin").unlink()
    load_engine(read_bundle(tiny_bundle), "openvino")
