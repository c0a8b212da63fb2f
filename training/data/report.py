"""The report of the doctor on a data set, and its form for a terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from training.data.sample import Finding

_SHOWN_FINDINGS, _SHOWN_PATHS = 5, 4


@dataclass(frozen=True)
class DataReport:
    """The findings and the facts about the data in the folder `root`. Facts need no action."""

    root: Path
    facts: tuple[str, ...]
    findings: tuple[Finding, ...]

    def text(self) -> str:
        """Format the report for a terminal. Long lists are shortened, and say how much is left out."""
        lines = [*self.facts, ""]
        for kind, count in Counter(finding.kind for finding in self.findings).items():
            for finding in [finding for finding in self.findings if finding.kind == kind][:_SHOWN_FINDINGS]:
                lines.append(f"{kind}: {finding.sentence}")
                lines += [f"    {path.relative_to(self.root)}" for path in finding.paths[:_SHOWN_PATHS]]
                if (more := len(finding.paths) - _SHOWN_PATHS) > 0:
                    lines.append(f"    and {more} more")
            if (more := count - _SHOWN_FINDINGS) > 0:
                lines.append(f"{kind}: {more} more like these")
        lines.append(f"{len(self.findings)} finding(s)" if self.findings else "nothing found")
        return "\n".join(lines)
