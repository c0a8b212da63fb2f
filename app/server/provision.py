"""Creates the API keys and secrets of a deployment."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.api.keys.keys import Keys, Right, new_key
from app.errors import KeysError

REDIS_CONF = """\
# Predictions live for minutes, and sending the picture again restores them: nothing is written to disk.
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
    """Create a key, add its digest to the key file, and return the key.

    Raises KeysError if the name is taken or the file cannot be written; the file is unchanged then.
    """
    if file.exists() and name in Keys.read(file):
        raise KeysError(
            f"{file}: already has a key {name!r}: choose another name, or add a second digest to that key by hand"
        )
    key, text = new_key(name, rights, requests_per_minute, concurrent)
    try:
        file.touch(0o600)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(text if lines.tell() == 0 else f"\n{text}")
    except OSError as error:
        raise KeysError(f"{file}: cannot be written: {error.strerror}") from error
    return key


def set_up(folder: Path) -> Iterator[str]:
    """Write the missing keys and secrets for docker-compose into a folder. Yields sentences that say what was done.

    The key for Prometheus is stored in clear text, because Prometheus must send it. It gives access to /metrics alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys, password = folder / "keys.toml", secrets.token_urlsafe(32)
    if not keys.exists():
        _write(folder / "metrics_key", add_key(keys, "prometheus", ["metrics"]))
        yield f"The first API key, shown only once: {_first_key(keys)}"
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
    yield f"{folder} has all keys and secrets of the deployment."


def _first_key(keys: Path) -> str:
    """A key for a first user, with limits that the page does not reach and that leave room for others."""
    return add_key(keys, "first", ["predict"], requests_per_minute=1200.0, concurrent=16)


def _write(file: Path, content: str) -> None:
    file.touch(0o600)
    file.write_text(content, encoding="utf-8")
