"""Redis as docker-compose.yml starts it: with the configuration that `setup` writes, and its own health check."""

from __future__ import annotations

import shlex
from pathlib import Path

from app.server.provision import set_up
from tests.deploy.test_compose import compose
from tests.support.deploy.tools import run_apart
from tests.support.programs import tool


def test_redis_takes_the_configuration_and_its_health_check_finds_it(tmp_path: Path) -> None:
    tool("redis-cli")
    list(set_up(tmp_path))
    service = compose()["services"]["redis"]
    kind, check = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL" and service["command"] == ["redis-server", "/secrets/redis/redis.conf"]
    check = check.replace("$$", "$").replace("/secrets/", f"{shlex.quote(str(tmp_path))}/")
    said = run_apart("tests.support.deploy.checked_redis", tool("redis-server"), tmp_path / "redis", check)
    assert said.split() == ["unhealthy", "healthy", "refused", "512mb-lru", "unhealthy"]
