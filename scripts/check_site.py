"""Check the built documentation: python -m scripts.check_site SITE.

Every link and anchor between pages leads somewhere, every picture, script and style is a file of the site, and nothing
is loaded from another host. The links of the README and of the other Markdown files beside it are checked too. The
builder's strict mode knows neither pictures nor these files. What scripts load at run time is looked at in a browser by
tests/docs/test_site.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
# Attributes whose target the browser loads by itself, and those that wait for a click.
LOADED = {"src", "srcset", "poster", "data"}
RELATED = {"canonical", "prev", "next", "alternate"}
IN_CSS = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
# A link or a picture in Markdown, outside of code.
IN_MARKDOWN = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@dataclass
class Page(HTMLParser):
    """What an HTML page links to, what it loads, and its anchors."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def read(cls, file: Path) -> Page:
        """The page in a file."""
        page = cls()
        page.feed(file.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loads += loaded_by_css(given.get("style", ""))
        for name in LOADED & given.keys():
            self.loads += [part.split()[0] for part in given[name].split(",") if part.strip()]
        if "href" in given:
            is_loaded = tag in ("link", "use", "image") and not RELATED & set(given.get("rel", "").split())
            (self.loads if is_loaded else self.links).append(given["href"])

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self.cdata_elem == "style":
            self.loads += loaded_by_css(data)


def loaded_by_css(text: str) -> list[str]:
    """What a style sheet loads."""
    return [either or other for either, other in IN_CSS.findall(text)]


def faults(site: Path) -> Iterator[str]:
    """A sentence for each fault of a built site."""
    pages = {file.resolve(): Page.read(file) for file in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: there is no page"
    for file, page in pages.items():
        for target in page.loads:
            yield from _faults_of_load(site, file, target)
        for target in page.links:
            if not urlsplit(target).scheme:
                yield from _faults_of_link(site, file, target, pages)
    for file in sorted(site.rglob("*.css")):
        for target in loaded_by_css(file.read_text(encoding="utf-8")):
            yield from _faults_of_load(site, file.resolve(), target)


def faults_of_markdown(file: Path, site: Path) -> Iterator[str]:
    """A sentence for each broken link of a Markdown file outside of docs/; the anchors are those of the built site."""
    for target in IN_MARKDOWN.findall(CODE.sub("", file.read_text(encoding="utf-8"))):
        parts = urlsplit(target)
        if parts.scheme or not parts.path:
            continue
        to = file.parent / unquote(parts.path)
        if not to.exists():
            yield f"{file.name}: {target} does not exist"
        elif parts.fragment and to.suffix == ".md" and to.is_relative_to(file.parent / "docs"):
            page = site / to.relative_to(file.parent / "docs").with_suffix(".html")
            if parts.fragment not in Page.read(page).anchors:
                yield f"{file.name}: {target}: there is no such heading"


def _faults_of_load(site: Path, file: Path, target: str) -> Iterator[str]:
    parts = urlsplit(target)
    if parts.scheme == "data" or not (parts.scheme or parts.netloc or parts.path):
        return
    if parts.scheme or parts.netloc:
        yield f"{_name(file, site)}: {target} is loaded from another host"
    elif not _file_of(site, file, parts.path).is_file():
        yield f"{_name(file, site)}: {target} does not exist"


def _faults_of_link(site: Path, file: Path, target: str, pages: dict[Path, Page]) -> Iterator[str]:
    parts = urlsplit(target)
    to = _file_of(site, file, parts.path) if parts.path else file
    if not to.is_file():
        yield f"{_name(file, site)}: {target} does not exist"
    elif parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].anchors:
        yield f"{_name(file, site)}: {target}: there is no such heading"


def _file_of(site: Path, file: Path, path: str) -> Path:
    """The file that a path on a page leads to; a folder stands for its index."""
    to = site.resolve() / path.lstrip("/") if path.startswith("/") else file.parent / unquote(path)
    return (to / "index.html" if to.is_dir() else to).resolve()


def _name(file: Path, site: Path) -> str:
    return str(file.relative_to(site.resolve()))


def main() -> int:
    """Print every fault and return the exit status: 1 if there is one."""
    site = Path(sys.argv[1])
    found = list(faults(site))
    for file in sorted(ROOT.glob("*.md")):
        found += faults_of_markdown(file, site)
    for sentence in found:
        print(sentence)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
