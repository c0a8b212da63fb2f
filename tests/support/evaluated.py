"""A bundle's evaluation as the tests look at it: what was returned, the document, and the page, parsed."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.shapes import Float
from training.evaluation.evaluate import evaluate
from training.evaluation.report import Evaluation


@dataclass(frozen=True)
class Evaluated:
    """A bundle's evaluation as it was returned, and as it was written."""

    bundle: Path
    data: Path
    returned: Evaluation
    document: dict[str, Any]
    html: str

    @property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        """Of every picture, in the order of the document's classes."""
        return np.array([row["probabilities"] for row in self.document["pictures"]])

    def column(self, name: str) -> list[str]:
        """One value of every picture."""
        return [row[name] for row in self.document["pictures"]]


def evaluated(bundle: Path, data: Path, split: str | None, out: Path) -> Evaluated:
    """Evaluate, and read back what was written."""
    returned = evaluate(bundle, data, split, out)
    assert {file.name for file in out.iterdir()} == {"evaluation.json", "report.html"}
    html = (out / "report.html").read_text(encoding="utf-8")
    return Evaluated(bundle, data, returned, json.loads((out / "evaluation.json").read_text(encoding="utf-8")), html)


def predictor_of(bundle: Path) -> Predictor:
    """As the service has it."""
    read = read_bundle(bundle)
    return Predictor(read, load_engine(read, "auto"), Limits(), 1024)


@dataclass
class Page(HTMLParser):
    """A parsed page: every element with its attributes, its text, and whether each element was closed."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in {"td", "th"}:
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(html: str) -> Page:
    """The page, all of whose elements are closed in order."""
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open
    return page


def decoded(image: dict[str, str | None]) -> Image.Image:
    """The picture in an image's data: URI, of the type that it says."""
    source = image["src"] or ""
    kind, _, content = source.partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert kind == f"data:{Image.MIME[str(picture.format)]}"
    return picture


def points(page: Page) -> list[Float[np.ndarray, "n 2"]]:
    """Each curve's points, in the order of the page, as (x, y) of the unit square."""
    found = []
    for attributes in page.all("polyline"):
        if (attributes["class"] or "").startswith("line"):
            pairs = [pair.split(",") for pair in (attributes["points"] or "").split()]
            found.append(np.array([(float(x) / 300, 1 - float(y) / 300) for x, y in pairs]))
    return found
