"""What a deployment needs before the service: keys and secrets."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.api.keys.keys import Keys, Right, new_key
from app.errors import KeysError

REDIS_CONF = """\
# Predictions live minutes and are made anew by sending the picture again: nothing is written to disk.
requirepass {password}
protected-mode yes
save ""
appendonly no
maxmemory 512mb
maxmemory-policy allkeys-lru
"""


def add_key(
    file: Path,
    name: str,
    rights: Sequence[Right],
    requests_per_minute: float | None = None,
    concurrent: int | None = None,
) -> str:
    """A new key, whose digest is added to the file of keys. Raises KeysError, and then nothing has changed."""
    if file.exists() and name in Keys.read(file):
        raise KeysError(f"{file}: has a key {name!r} already; choose another name, or add a digest to it by hand")
    key, text = new_key(name, rights, requests_per_minute, concurrent)
    try:
        file.touch(0o600)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(text if lines.tell() == 0 else f"\n{text}")
    except OSError as error:
        raise KeysError(f"{file}: cannot be written: {error.strerror}") from error
    return key


def set_up(folder: Path) -> Iterator[str]:
    """Write keys and secrets for docker-compose into a folder, each where it is not there yet; says what it did.

    The key for Prometheus is there in clear text, since Prometheus must send it; it opens /metrics and nothing else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys, password = folder / "keys.toml", secrets.token_urlsafe(32)
    if not keys.exists():
        _write(folder / "metrics_key", add_key(keys, "prometheus", ["metrics"]))
        yield f"The first API key, shown this once: {add_key(keys, 'first', ['predict'])}"
    if not (folder / "redis.conf").exists():
        _write(folder / "fusionlens_redis_url", f"redis://:{password}@redis:6379/0")
        _write(folder / "redis.conf", REDIS_CONF.format(password=password))
    for name, content in (
        ("fusionlens_keys", str(keys)),
        ("fusionlens_redis_secret", secrets.token_urlsafe(48)),
        ("grafana_password", secrets.token_urlsafe(24)),
    ):
        if not (folder / name).exists():
            _write(folder / name, content)
    yield f"{folder} has what the services need."


def _write(file: Path, content: str) -> None:
    file.touch(0o600)
    file.write_text(content, encoding="utf-8")
