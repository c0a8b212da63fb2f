"""Unpacks and checks the XML of a graph, before OpenVINO reads it.

The digests in a manifest say that a file is its author's, not that its author means well. OpenVINO trusts what it
reads: a constant whose content is in the XML is read beyond its end, and metadata may name a file of weights. So a
graph must have what OpenVINO itself writes for graphs like ours and nothing else: the elements and attributes below,
constants that lie within the file of weights, no name of a file, and operations that stay within their tensors. If a
later OpenVINO writes more, an export fails with what that is, and the tables below and in `graph_operations` are the
place for it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from xml.parsers import expat

from app.bundles.graph_names import MAX_XML_BYTES
from app.engines.graph_operations import ELEMENT_TYPE, OPERATIONS, check_attributes
from app.engines.graph_values import Layer, Port, Values

# Of the beginnings of tags, and of attributes. The token graph of a Swin-Tiny has 93,000, that of a Swin-Small 184,000.
MAX_MARKS = 500_000

_PORT = {"id", "precision", "names"}
_ATTRIBUTE = {"name", "version", "value"}  # a mark for compilers, such as that a constant was stored in fp16
# From the path of an element to the attributes that it may have; None stands for any.
_ATTRIBUTES: dict[str, set[str] | None] = {
    "net": {"name", "version"},
    "net/layers": set(),
    "net/layers/layer": {"id", "name", "type", "version", "output_names"},
    "net/layers/layer/data": None,  # the parameters of the operation
    "net/layers/layer/rt_info": set(),
    "net/layers/layer/rt_info/attribute": _ATTRIBUTE,
    **{f"net/layers/layer/{side}": set() for side in ("input", "output")},
    **{f"net/layers/layer/{side}/port": _PORT for side in ("input", "output")},
    **{f"net/layers/layer/{side}/port/dim": set() for side in ("input", "output")},
    **{f"net/layers/layer/{side}/port/rt_info": set() for side in ("input", "output")},
    **{f"net/layers/layer/{side}/port/rt_info/attribute": _ATTRIBUTE for side in ("input", "output")},
    "net/edges": set(),
    "net/edges/edge": {"from-layer", "from-port", "to-layer", "to-port"},
    "net/rt_info": set(),
    "net/rt_info/info": {"name", "value"},
    "net/rt_info/Runtime_version": {"value"},
    "net/rt_info/conversion_parameters": set(),
    "net/rt_info/conversion_parameters/framework": {"value"},
    "net/rt_info/conversion_parameters/is_python_object": {"value"},
}
_LAYER, _DATA, _INFO = "net/layers/layer", "net/layers/layer/data", "net/rt_info/info"
_INPUT, _OUTPUT, _EDGE = "net/layers/layer/input/port", "net/layers/layer/output/port", "net/edges/edge"
_PORTS = (_INPUT, _OUTPUT)
# Names within the graph may have slashes, such as permute/aten.permute.default/Transpose.
_LABELLED = {"net", _LAYER, *_PORTS}
_LABELS = {"name", "names", "output_names"}
# So may OpenVINO's version, such as 2026.4.1-22982-e213a147257-releases/2026/4.
_VERSIONED = {_INFO, "net/rt_info/Runtime_version"}
_VERSION = re.compile(r"[0-9][\w./-]*")
_CONSTANT = {"element_type", "shape", "offset", "size"}
_MAX_SIDES = 16
_MOST_USES = 3  # of all weights: forward, backward, and some more often
_SHARED_BYTES = 1 << 20  # equal constants, mostly shapes, are stored once
_CHUNK_BYTES = 1 << 20
_START = re.compile(rb'(<\?xml version="1\.0"\?>\s*)?<net ')
_ID = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class _Element:
    """An element that a graph may have. `attributes` are those that it may have, or None for any."""

    path: str
    attributes: set[str] | None
    children: dict[str, _Element]


def _element(path: str) -> _Element:
    children = {other.rpartition("/")[2]: _element(other) for other in _ATTRIBUTES if other.rpartition("/")[0] == path}
    return _Element(path, _ATTRIBUTES.get(path), children)


_DOCUMENT = _element("")


def unpack(data: bytes) -> bytes:
    """The XML in a gzip file. Raises ValueError as soon as it has unpacked more than `MAX_XML_BYTES`."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        plain = unpacking.decompress(data, MAX_XML_BYTES + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    _check_size(plain)
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("it is not one whole gzip file")
    return plain


def check(xml: bytes, weights: bytes) -> None:
    """Check the XML of a graph whose constants are in a file with the content `weights`. Raises ValueError."""
    _check_text(xml)
    graph, open_elements = _Graph(len(weights)), [_DOCUMENT]
    for event in _parse(xml):
        if event is None:
            open_elements.pop()
            continue
        (name, attributes), parent = event, open_elements[-1]
        element = parent.children.get(name)
        if element is None:
            raise ValueError(f"it has an element {name[:200]!r} in {parent.path!r}, which no graph of a bundle has")
        open_elements.append(element)
        if attributes:
            _check_attributes(element, attributes)
        graph.add(element.path, attributes)
    graph.check_whole()
    Values(graph.layers, graph.sources, weights).check()


def _check_text(xml: bytes) -> None:
    _check_size(xml)
    if xml.find(b"<!") >= 0:
        raise ValueError("it has a document type or a comment, which no graph of a bundle has")
    if xml.find(b"<?", 1) >= 0:
        raise ValueError("it has a processing instruction, which no graph of a bundle has")
    if not _START.match(xml):
        raise ValueError("it is not XML as OpenVINO writes it")
    if max(xml.count(b"<"), xml.count(b"=")) > MAX_MARKS:
        raise ValueError(f"it has more than {MAX_MARKS:,} tags or attributes")


class _Graph:
    """The layers of a graph and their connections, which are checked as they are added."""

    def __init__(self, weights_bytes: int) -> None:
        self.layers: dict[str, Layer] = {}
        self.sources: dict[Port, Port] = {}
        self._weights_bytes, self._constant_bytes = weights_bytes, 0
        self._id, self._layer = "", Layer("")

    def add(self, path: str, attributes: Mapping[str, str]) -> None:
        """Add the element at `path`. Raises ValueError."""
        if path == _LAYER:
            self._id, self._layer = _id(attributes, "id"), Layer(_operation(attributes))
            if self._id in self.layers:
                raise ValueError(f"two layers have the id {self._id}")
            self.layers[self._id] = self._layer
        elif path == _DATA:
            self._add_data(attributes)
        elif path in _PORTS:
            ports = self._layer.inputs if path == _INPUT else self._layer.outputs
            ports.append(_id(attributes, "id"))
        elif path == _EDGE:
            end = _id(attributes, "to-layer"), _id(attributes, "to-port")
            if end in self.sources:
                raise ValueError(f"two edges lead to port {end[1]} of layer {end[0]}")
            self.sources[end] = _id(attributes, "from-layer"), _id(attributes, "from-port")

    def check_whole(self) -> None:
        """Check what can only be told at the end. Raises ValueError."""
        for name, layer in self.layers.items():
            if layer.operation == "Const" and layer.attributes is None:
                raise ValueError(f"layer {name} is a constant without content")
            if any(len(set(ports)) < len(ports) for ports in (layer.inputs, layer.outputs)):
                raise ValueError(f"layer {name} has two ports with the same id")

    def _add_data(self, attributes: Mapping[str, str]) -> None:
        if self._layer.attributes is not None:
            raise ValueError(f"layer {self._id} has its parameters twice")
        self._layer.attributes = attributes
        if self._layer.operation != "Const":
            check_attributes(self._layer.operation, attributes)
            return
        self._constant_bytes += _check_constant(attributes, self._weights_bytes)
        if self._constant_bytes > _MOST_USES * self._weights_bytes + _SHARED_BYTES:
            raise ValueError(f"its constants have more than {_MOST_USES} times as many bytes as there are weights")


def _parse(xml: bytes) -> Iterator[tuple[str, dict[str, str]] | None]:
    """The name and the attributes of each element as it starts, and None as one ends."""
    events: list[tuple[str, dict[str, str]] | None] = []
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = lambda name, attributes: events.append((name, attributes))
    parser.EndElementHandler = lambda _: events.append(None)
    for start in range(0, len(xml), _CHUNK_BYTES):
        try:
            parser.Parse(xml[start : start + _CHUNK_BYTES], start + _CHUNK_BYTES >= len(xml))
        except expat.ExpatError as error:
            raise ValueError(f"it is not XML: {error}") from error
        yield from events
        events.clear()


def _check_size(xml: bytes) -> None:
    if len(xml) > MAX_XML_BYTES:
        raise ValueError(f"its XML has more than {MAX_XML_BYTES >> 20} MB")


def _check_attributes(element: _Element, attributes: Mapping[str, str]) -> None:
    path = element.path
    for key, value in attributes.items():
        if element.attributes is not None and key not in element.attributes:
            raise ValueError(f"{path} has an attribute {key[:200]!r}, which no graph of a bundle has")
        if ("/" in value or "\\" in value) and not _may_have_slashes(path, key, value):
            raise ValueError(f"{path} has {key}={value[:200]!r}, which could name a file")
    if path == _INFO and attributes.get("name") != "OpenVINO Runtime":
        raise ValueError(f"{path} has name={attributes.get('name', '')[:200]!r}, which no graph of a bundle has")


def _may_have_slashes(path: str, key: str, value: str) -> bool:
    if path in _VERSIONED:
        return _VERSION.fullmatch(value) is not None
    return path in _LABELLED and key in _LABELS


def _operation(attributes: Mapping[str, str]) -> str:
    """The type of a layer."""
    operation, version = attributes.get("type", ""), attributes.get("version", "")
    if not re.fullmatch("opset[0-9]+", version):
        raise ValueError(f"an operation is of {version[:200]!r}, which is no set of OpenVINO's operations")
    if (operation, version) not in OPERATIONS:
        raise ValueError(f"it has the operation {operation[:200]} of {version}, which no graph of a bundle may have")
    return operation


def _id(attributes: Mapping[str, str], name: str) -> str:
    """The number of a layer or of a port. OpenVINO would read other spellings of it too."""
    value = attributes.get(name, "")
    if not _ID.fullmatch(value):
        raise ValueError(f"it has {name}={value[:200]!r} where a number belongs")
    return value


def _check_constant(attributes: Mapping[str, str], weights_bytes: int) -> int:
    """The bytes of a constant."""
    if attributes.keys() != _CONSTANT:
        raise ValueError(f"a constant has the attributes {sorted(attributes)} instead of {sorted(_CONSTANT)}")
    element_type = attributes["element_type"]
    bits = ELEMENT_TYPE.fullmatch("u8" if element_type == "boolean" else element_type)
    if bits is None:
        raise ValueError(f"a constant is of the type {element_type[:200]!r}, which is no number")
    if attributes["shape"].count(",") > _MAX_SIDES:
        raise ValueError(f"a constant has more than {_MAX_SIDES} sides")
    shape = [_size(side) for side in attributes["shape"].split(",")] if attributes["shape"] else []
    offset, size = _size(attributes["offset"]), _size(attributes["size"])
    if size != (prod(shape) * int(bits[1]) + 7) // 8:
        raise ValueError(f"a constant of {element_type} with the shape {shape} has {size} bytes")
    if offset + size > weights_bytes:
        raise ValueError(f"a constant ends at {offset + size}, after all {weights_bytes} bytes of weights")
    return size


def _size(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text.strip(" ")):
        raise ValueError(f"a constant has {text[:200]!r} where a size belongs")
    return int(text)
