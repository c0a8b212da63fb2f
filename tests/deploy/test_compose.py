"""docker-compose.yml: what the specification demands, and what a reader may rely on without reading it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from app.server.provision import set_up
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


def test_only_the_proxy_is_root() -> None:
    for name, service in compose()["services"].items():
        assert service.get("user") == (None if name == "proxy" else "10001:10001"), name
        assert service.get("cap_add") == (["NET_BIND_SERVICE"] if name == "proxy" else None), name


# All that a container can read of the secrets. Whoever adds a service says here what it needs.
API = {f"api/{name}" for name in ("keys.toml", "fusionlens_keys", "fusionlens_redis_url", "fusionlens_redis_secret")}
READABLE = {
    "api": API,
    "api-gpu": API,
    "redis": {"redis/redis.conf"},
    "proxy": set[str](),
    "prometheus": {"prometheus/metrics_key"},
    "grafana": {"grafana/grafana_password"},
}
READABLE["setup"] = {"operator/first_key"}.union(*READABLE.values())


def mounts(name: str) -> list[tuple[str, str, bool]]:
    """Source, target and whether it is read-only, of each volume of a service."""
    parts = [volume.split(":") for volume in compose()["services"][name].get("volumes", ())]
    return [(source, target, mode == ["ro"]) for source, target, *mode in parts]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `setup` makes."""
    folder = tmp_path_factory.mktemp("made") / "secrets"
    list(set_up(folder))
    return folder


def test_each_container_can_read_its_own_secrets_and_no_other(made: Path) -> None:
    assert READABLE.keys() == compose()["services"].keys()
    whole = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    # In each volume, by its name, what setup puts into it.
    put = {
        source: {f for f in whole if Path("/secrets", f).is_relative_to(target)}
        for source, target, _ in mounts("setup")
    }
    for name, readable in READABLE.items():
        assert set().union(*(put.get(source, set()) for source, _, _ in mounts(name))) == readable, name
        for source, target, is_read_only in mounts(name):
            assert source in compose()["volumes"] or source.startswith("./deploy/"), (name, source)
            if put.get(source):
                assert is_read_only is (name != "setup"), name
                assert (source, target) in {mount[:2] for mount in mounts("setup")}, "a path in a secret would be wrong"
    assert whole == READABLE["setup"], "what is in no volume is gone with the container"


def test_there_is_no_other_way_to_a_secret() -> None:
    assert not any(compose()["volumes"].values()), "a volume that is something else than a volume"
    assert not {"secrets", "configs", "include"} & compose().keys()
    for name, service in compose()["services"].items():
        assert not {"secrets", "configs", "env_file", "volumes_from", "extends"} & service.keys(), name
    assert {name for name in compose()["services"] if "certificates" in {mount[0] for mount in mounts(name)}} == {
        "proxy"
    }


def test_a_secret_that_is_named_is_one_that_can_be_read(made: Path) -> None:
    named = {name: str(service) for name, service in compose()["services"].items()}
    named["prometheus"] += (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
    for name in READABLE.keys() - {"setup"}:
        paths = set(re.findall(r"/secrets/(\w+/[\w.]+)", named[name])) - {"prometheus/prometheus.yml"}
        assert paths <= READABLE[name], name
        assert paths == READABLE[name] or name.startswith("api"), name
    for name in ("api", "api-gpu"):
        assert compose()["services"][name]["environment"]["FUSIONLENS_SECRETS_DIR"] == "/secrets/api"
    for text in (FILE, ROOT / "docs" / "guides" / "deploy.md", ROOT / "CHANGELOG.md"):
        told = set(re.findall(r"/secrets/(\w+/[\w.]+)", text.read_text(encoding="utf-8")))
        assert told and told <= READABLE["setup"], text


def test_secrets_are_mounted_on_folders_of_the_image_that_are_its_users() -> None:
    """A new volume takes owner and mode of the folder that it is mounted on; where there is none, it is root's."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    (folders,) = re.findall(r"install -d -o 10001 -g 10001 -m 0700 ([^&\n]+)", dockerfile)
    assert {target for _, target, _ in mounts("setup")} <= {*folders.split()}


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
