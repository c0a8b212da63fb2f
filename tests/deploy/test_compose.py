"""docker-compose.yml: what the specification demands, and what a reader may rely on without reading it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from app.settings import Settings
from tests.support.deploy.tools import DEPLOY, ROOT, documents, run
from tests.support.programs import tool

FILE = ROOT / "docker-compose.yml"


@cache
def compose() -> dict[str, Any]:
    (document,) = documents(FILE)
    return dict(document)


@pytest.fixture(params=compose()["services"])
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(compose()["services"][request.param])


def networks(name: str) -> set[str]:
    return set(compose()["services"][name].get("networks", ()))


def test_it_is_a_compose_file() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FILE)


def test_a_service_can_do_nothing_that_it_need_not(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "devices", "env_file"} & set(service)
    assert service.get("network_mode") in (None, "none")


def test_a_service_takes_no_more_than_its_share(service: dict[str, Any]) -> None:
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"]["max-size"]


def test_a_service_is_started_again_and_says_whether_it_works(service: dict[str, Any]) -> None:
    one_shot = service.get("command", [""])[0] == "setup"
    assert service["restart"] == ("no" if one_shot else "unless-stopped")
    assert service["healthcheck"].get("disable", False) is one_shot
    assert one_shot or {"test", "interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])


def test_images_say_which_version(service: dict[str, Any]) -> None:
    name, _, tag = service["image"].rpartition(":")
    assert name and tag and tag != "latest"


def test_only_the_proxy_can_be_reached_from_outside() -> None:
    assert [name for name, service in compose()["services"].items() if "ports" in service] == ["proxy"]
    assert compose()["services"]["proxy"]["ports"] == ["80:80", "443:443", "443:443/udp"]
    assert [name for name, network in compose()["networks"].items() if not network.get("internal")] == ["edge"]
    assert [name for name in compose()["services"] if "edge" in networks(name)] == ["proxy"]


def test_nobody_but_replicas_can_reach_redis() -> None:
    assert networks("redis") == {"store"}
    assert {name for name in compose()["services"] if "store" in networks(name)} == {"redis", "api", "api-gpu"}


def test_only_the_proxy_is_root_and_has_no_secret() -> None:
    for name, service in compose()["services"].items():
        mounts_secrets = any(str(volume).startswith("secrets:") for volume in service.get("volumes", ()))
        assert service.get("user") == (None if name == "proxy" else "10001:10001"), name
        assert service.get("cap_add") == (["NET_BIND_SERVICE"] if name == "proxy" else None), name
        assert mounts_secrets is (name != "proxy"), name
        assert name in ("setup", "proxy") or "secrets:/secrets:ro" in service["volumes"], name


def test_no_password_stands_in_a_file() -> None:
    for name, service in compose()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
                assert variable.endswith(("__FILE", "_DIR")) and value.startswith("/secrets"), (name, variable)
    for file in (FILE, *(path for path in DEPLOY.rglob("*") if path.is_file())):
        text = file.read_text(encoding="utf-8")
        found = re.findall(r"(?:requirepass|password|secret|token)[ \t]*[:=][ \t]*[\"']?[\w-]{8,}", text, re.IGNORECASE)
        assert not found, (file.name, found)


def test_everything_starts_after_the_secrets_are_there() -> None:
    for name, service in compose()["services"].items():
        if name != "setup":
            assert service["depends_on"]["setup"] == {"condition": "service_completed_successfully"}, name


def test_a_stopped_replica_has_the_time_to_end_what_it_began() -> None:
    for name in ("api", "api-gpu"):
        service = compose()["services"][name]
        environment = service["environment"]
        asked = float(environment["FUSIONLENS_DRAIN_S"]) + float(environment["FUSIONLENS_DEADLINE_S"])
        assert float(service["stop_grace_period"].removesuffix("s")) > asked, name
        assert "container_name" not in service, name


def test_replicas_by_cpu_and_gpu_have_one_name() -> None:
    gpu = compose()["services"]["api-gpu"]
    assert gpu["profiles"] == ["gpu"] and gpu["build"]["target"] == "gpu"
    assert all("api" in gpu["networks"][network]["aliases"] for network in ("web", "watch"))
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_settings_are_settings_of_the_service() -> None:
    known = {f"FUSIONLENS_{name.upper()}" for name in Settings.model_fields} | {"FUSIONLENS_SECRETS_DIR"}
    for name in ("setup", "api", "api-gpu"):
        assert set(compose()["services"][name].get("environment", ())) <= known, name


def test_every_file_that_is_mounted_is_there() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", ()):
            source, _, _ = volume.partition(":")
            assert (ROOT / source).exists() if source.startswith("./") else source in compose()["volumes"], volume
