"""deploy/kubernetes.yaml: the laws that a cluster would find broken late, or never."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from app.server.provision import set_up
from app.settings import Settings
from tests.support.deploy.tools import DEPLOY, documents


@cache
def resources() -> dict[tuple[str, str], dict[str, Any]]:
    found = {(r["kind"], r["metadata"]["name"]): r for r in documents(DEPLOY / "kubernetes.yaml")}
    assert len(found) == len(documents(DEPLOY / "kubernetes.yaml"))
    return found


def pod(name: str) -> dict[str, Any]:
    return dict(resources()["Deployment", name]["spec"]["template"]["spec"])


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return dict(only)


DEPLOYMENTS = [name for kind, name in resources() if kind == "Deployment"]


def test_all_that_is_needed_is_there() -> None:
    kinds = {kind for kind, _ in resources()}
    assert {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"} <= kinds
    assert "Secret" not in kinds, "no secret stands in a file"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_can_do_nothing_that_it_need_not(name: str) -> None:
    assert pod(name)["automountServiceAccountToken"] is False
    context = pod(name)["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_says_what_it_needs_and_whether_it_works(name: str) -> None:
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container(name))
    assert {"cpu", "memory"} == set(container(name)["resources"]["requests"])
    assert {"cpu", "memory"} == set(container(name)["resources"]["limits"])


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_selectors_and_labels_agree(name: str) -> None:
    deployment = resources()["Deployment", name]["spec"]
    labels, ports = deployment["template"]["metadata"]["labels"], {p["name"] for p in container(name)["ports"]}
    assert deployment["selector"]["matchLabels"] == labels
    service = resources()["Service", name]["spec"]
    assert service["selector"] == labels
    assert {port["targetPort"] for port in service["ports"]} <= ports


def test_budget_policy_and_autoscaler_are_about_the_deployments() -> None:
    api, redis = (resources()["Deployment", name]["spec"]["selector"] for name in ("fusionlens", "redis"))
    assert resources()["PodDisruptionBudget", "fusionlens"]["spec"]["selector"] == api
    policy = resources()["NetworkPolicy", "redis"]["spec"]
    assert policy["podSelector"] == redis and policy["ingress"][0]["from"] == [{"podSelector": api}]
    scaler = resources()["HorizontalPodAutoscaler", "fusionlens"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "fusionlens"}
    assert scaler["minReplicas"] >= 2, "one replica cannot be moved without an interruption"
    assert "replicas" not in resources()["Deployment", "fusionlens"]["spec"], "applying the file would undo the scaler"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_is_mounted_is_declared(name: str) -> None:
    volumes = {volume["name"] for volume in pod(name)["volumes"]}
    assert {mount["name"] for mount in container(name)["volumeMounts"]} == volumes


# The folder of `setup` that each pod gets as a Secret, and gets alone.
FOLDER_OF = {"fusionlens": "api", "redis": "redis"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_gets_its_own_secrets_and_no_other(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = FOLDER_OF[name]
    ((volume, secret),) = [(v["name"], v["secret"]["secretName"]) for v in pod(name)["volumes"] if "secret" in v]
    assert not [
        source for v in pod(name)["volumes"] for source in ("hostPath", "projected", "configMap") if source in v
    ]
    assert not [entry for entry in container(name).get("env", ()) if "valueFrom" in entry]
    assert "envFrom" not in container(name)
    header = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    assert re.findall(rf"create secret generic {secret} --from-file=(\S+)", header) == [f"secrets/{folder}"]
    (place,) = [mount for mount in container(name)["volumeMounts"] if mount["name"] == volume]
    assert place == {"name": volume, "mountPath": f"/secrets/{folder}", "readOnly": True}
    made = tmp_path_factory.mktemp("made")
    list(set_up(made))
    named = set(re.findall(r"/secrets/([\w.]+/[\w.]+)", str(container(name))))
    assert named <= {f"{folder}/{file.name}" for file in (made / folder).iterdir()}


def test_a_pod_is_not_killed_before_it_has_drained() -> None:
    settings = {entry["name"]: entry["value"] for entry in container("fusionlens")["env"]}
    known = {f"FUSIONLENS_{name.upper()}" for name in Settings.model_fields} | {"FUSIONLENS_SECRETS_DIR"}
    assert set(settings) <= known
    asked = float(settings["FUSIONLENS_DRAIN_S"]) + float(settings["FUSIONLENS_DEADLINE_S"])
    assert pod("fusionlens")["terminationGracePeriodSeconds"] > asked


def test_liveness_depends_on_nothing_outside_and_no_variable_is_taken_for_a_setting() -> None:
    assert container("fusionlens")["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container("fusionlens")["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert pod("fusionlens")["enableServiceLinks"] is False
