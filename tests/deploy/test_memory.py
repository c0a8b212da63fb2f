"""The memory that a deployment gives a replica is enough for all that the settings' defaults allow it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.settings import Settings
from tests.support.deploy.tools import DEPLOY, ROOT, documents

SERVICE_BYTES = 400_000_000  # of the process itself with the demo bundle: docs/guides/deploy.md, "Sizing"
GUIDE = ROOT / "docs" / "guides" / "deploy.md"
UNITS = {"M": 10**6, "G": 10**9, "Mi": 2**20, "Gi": 2**30}
# To docker, M and G are powers of two.
DOCKER_UNITS = {"M": 2**20, "G": 2**30}


def default(name: str) -> int:
    """The default of a setting, whatever this machine's environment says."""
    value = Settings.model_fields[name].default
    assert isinstance(value, int)
    return value


def parts_bytes() -> dict[str, int]:
    """What takes memory, and how much at most."""
    budgets = ("store_max_bytes", "answers_max_bytes", "uploads_max_bytes")
    return {
        "service": SERVICE_BYTES,
        **{name: default(name) for name in budgets},
        "decoders": default("decoders") * default("decoder_max_bytes"),
    }


def in_bytes(text: str, units: dict[str, int]) -> int:
    """A limit as a manifest writes it."""
    found = re.fullmatch(r"(\d+)([A-Za-z]+)", text)
    assert found, text
    return int(found[1]) * units[found[2]]


def docker_limits() -> dict[str, int]:
    services = documents(ROOT / "docker-compose.yml")[0]["services"]
    return {
        name: in_bytes(services[name]["deploy"]["resources"]["limits"]["memory"], DOCKER_UNITS)
        for name in ("api", "api-gpu")
    }


def kubernetes_limits() -> dict[str, int]:
    def is_api(document: dict[str, Any]) -> bool:
        return (document["kind"], document["metadata"]["name"]) == ("Deployment", "fusionlens")

    (deployment,) = filter(is_api, documents(DEPLOY / "kubernetes.yaml"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {"kubernetes": in_bytes(container["resources"]["limits"]["memory"], UNITS)}


LIMITS = docker_limits() | kubernetes_limits()


@pytest.mark.parametrize("name", LIMITS)
def test_all_that_a_replica_may_take_at_once_is_below_its_limit(name: str) -> None:
    assert sum(parts_bytes().values()) < LIMITS[name]


def test_the_guide_says_the_sum() -> None:
    text = re.sub(r"\s+", " ", GUIDE.read_text(encoding="utf-8"))
    parts = parts_bytes()
    numbers = [parts["service"], *(parts[f"{name}_max_bytes"] for name in ("uploads", "answers", "store"))]
    said = " + ".join(f"{number // 10**6}" for number in numbers)
    decoders = f"{default('decoders')} × {default('decoder_max_bytes') // 10**6}"
    assert f"{said} + {decoders} MB = {sum(parts.values()) / 1e9:.1f} GB" in text
    assert f"`MAX_PIXELS` ({default('max_pixels') // 10**6} million)" in text
    assert f"`MAX_FULL_PIXELS` ({default('max_full_pixels') // 10**6} million)" in text
