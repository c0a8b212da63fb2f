"""What a section has found so far, in a file that is whole at any moment: a section may be stopped at any time."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Notes:
    """The figures of a section, written to `file` with each addition.

    The section should end by `end_s`, in seconds of `time.monotonic`, which on Linux all processes share.
    """

    file: Path
    end_s: float
    figures: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def keep(self, name: str, value: Any) -> None:
        """Keep a figure. It is anything that JSON can hold."""
        self.figures[name] = value
        self.write()

    def check(self, name: str, found: float, bound: float, of: str = "") -> None:
        """Keep a figure that must not be greater than a bound, `of` a model or a precision. NaN is greater."""
        holds = found <= bound
        self.checks.append({"of": of, "name": name, "found": found, "bound": bound, "holds": holds})
        print(f"{of} {name}: {found:.3g} ({'holds' if holds else 'DOES NOT HOLD'}: at most {bound:g})", flush=True)
        self.write()

    def skip(self, sentence: str) -> None:
        """Say loudly what is not measured, and why."""
        self.skipped.append(sentence)
        print(f"SKIPPED LOUDLY: {sentence}", flush=True)
        self.write()

    def has_time(self, needed_s: float, what: str) -> bool:
        """Whether so much of the section's time is left; if not, that is said of `what`."""
        if time.monotonic() + needed_s <= self.end_s:
            return True
        self.skip(f"{what}: too little of the section's time was left")
        return False

    def write(self) -> None:
        """Write what there is. The file is replaced at once."""
        content = {"figures": self.figures, "checks": self.checks, "skipped": self.skipped}
        unfinished = self.file.with_suffix(".part")
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        unfinished.replace(self.file)
