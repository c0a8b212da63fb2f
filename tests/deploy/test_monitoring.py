"""Prometheus and Grafana: their files are read by promtool, and name metrics that the service has."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from app.server.provision import set_up
from app.telemetry.metrics import Metrics
from tests.support.deploy.tools import DEPLOY, documents, run
from tests.support.programs import tool

ALERTS = DEPLOY / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "fusionlens.json"


@cache
def alerts() -> list[dict[str, Any]]:
    (document,) = documents(ALERTS)
    return [rule for group in document["groups"] for rule in group["rules"]]


@cache
def series() -> set[str]:
    """The names under which Prometheus keeps the service's metrics."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    families = {family.name: suffixes.get(family.type, ("",)) for family in Metrics().registry.collect()}
    return {name + suffix for name, of_type in families.items() for suffix in of_type}


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def unknown(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:fusionlens|process)_\w+", expression)) - series()


def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    """With the files where docker-compose.yml mounts them, which promtool looks for."""
    list(set_up(tmp_path / "secrets"))
    shutil.copy(ALERTS, tmp_path)
    configuration = (DEPLOY / "prometheus.yml").read_text().replace("/secrets/", f"{tmp_path}/secrets/")
    (tmp_path / "prometheus.yml").write_text(configuration)
    assert "SUCCESS" in run(tool("promtool"), "check", "config", tmp_path / "prometheus.yml")


@pytest.mark.parametrize("file", ["alerts_test.yml", "alerts_drift_test.yml"])
def test_alerts_fire_when_they_should_and_are_quiet_when_all_is_well(file: str) -> None:
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", DEPLOY / file)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_waits_and_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["for"] and alert["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"\S.*\.", alert["annotations"]["summary"].strip(), re.DOTALL)
    assert not unknown(alert["expr"])


def test_every_alert_is_seen_to_fire() -> None:
    fires: set[str] = set()
    for file in ("alerts_test.yml", "alerts_drift_test.yml"):
        (document,) = documents(DEPLOY / file)
        for test in document["tests"]:
            for check in test.get("promql_expr_test", ()):
                asked = " ".join([check["expr"], *(sample["labels"] for sample in check["exp_samples"])])
                if check["exp_samples"]:
                    fires |= {alert["alert"] for alert in alerts() if alert["alert"] in asked}
            fires |= {check["alertname"] for check in test.get("alert_rule_test", ()) if check["exp_alerts"]}
    assert fires == {alert["alert"] for alert in alerts()}


def test_the_dashboard_asks_what_prometheus_understands_about_metrics_that_there_are(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    assert len(asked) > 20
    assert not set().union(*map(unknown, asked))
    filled = (re.sub(r"\$__(rate_)?interval", "1m", expression) for expression in asked)
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(filled)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    assert "SUCCESS" in run(tool("promtool"), "check", "rules", tmp_path / "rules.json")


def test_the_dashboard_shows_everything_that_the_service_counts() -> None:
    asked = "".join(target["expr"] for panel in panels() for target in panel.get("targets", ()))
    families = {f.name for f in Metrics().registry.collect() if f.name.startswith("fusionlens_")}
    assert {name for name in families if name not in asked} == set()


def test_panels_do_not_lie_over_each_other_and_have_the_data_source_that_is_provisioned() -> None:
    (provisioned,) = documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")
    (source,) = provisioned["datasources"]
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["title"] and panel.get("datasource", {"uid": source["uid"]})["uid"] == source["uid"]
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
