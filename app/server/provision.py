"""Creates the API keys and secrets of a deployment."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.api.keys.keys import Keys, Right, new_key
from app.errors import KeysError
from app.server.secret_files import keep_secret, make_private, replace_secret, write_secret

# The files of a deployment, by who reads them. Each reader has a folder of its own, and is given nothing else.
FILES_OF = {
    "api": ("keys.toml", "fusionlens_keys", "fusionlens_redis_url", "fusionlens_redis_secret"),
    "redis": ("redis.conf",),
    "prometheus": ("metrics_key",),
    "grafana": ("grafana_password",),
    "operator": ("first_key",),
}
REDIS_URL = "redis://:{password}@redis:6379/0"
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
        if not file.exists():
            write_secret(file, text)
        else:
            before = file.read_text(encoding="utf-8")
            replace_secret(file, f"{before}\n{text}" if before else text)
    except OSError as error:
        raise KeysError(f"{file}: cannot be written: {error.strerror}") from error
    return key


def set_up(folder: Path) -> Iterator[str]:
    """Write the missing keys and secrets of a deployment. Yields sentences that say what was done, without a secret.

    `FILES_OF` says which files there are, and in which folder within this one. What is there stays as it is, so that a
    run that was interrupted is completed by the next. Files of an older layout are moved.

    The key for Prometheus is stored in clear text, because Prometheus must send it. It gives access to /metrics alone.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for reader in FILES_OF:
        make_private(folder / reader)
    place = {name: folder / reader / name for reader, names in FILES_OF.items() for name in names}
    yield from _move_old_files(folder, place)
    yield from _write_keys(place["keys.toml"], place["metrics_key"], place["first_key"])
    _write_redis(place["redis.conf"], place["fusionlens_redis_url"])
    path = place["fusionlens_keys"]
    if not keep_secret(path) or path.read_text(encoding="utf-8").strip() == str(folder / "keys.toml"):
        write_secret(path, str(place["keys.toml"]))
    for name, length in (("fusionlens_redis_secret", 48), ("grafana_password", 24)):
        if not keep_secret(place[name]):
            write_secret(place[name], secrets.token_urlsafe(length))
    yield f"{folder} has all keys and secrets of the deployment."


def _move_old_files(folder: Path, place: dict[str, Path]) -> Iterator[str]:
    """Once all files were in one folder, which is that of the api where it is a volume of docker-compose.yml."""
    for name, new in place.items():
        for old in {folder / name, folder / "api" / name} - {new}:
            if not old.is_file():
                continue
            if keep_secret(old) and not keep_secret(new):
                write_secret(new, old.read_text(encoding="utf-8"))
            old.unlink()
            yield f"{old} is now {new}."


def _write_keys(keys: Path, metrics_key: Path, first_key: Path) -> Iterator[str]:
    if not keep_secret(keys):
        metrics, metrics_lines = new_key("prometheus", ["metrics"])
        # For a first user, with limits that the page does not reach and that leave room for others.
        first, first_lines = new_key("first", ["predict"], requests_per_minute=1200.0, concurrent=16)
        write_secret(metrics_key, metrics)
        write_secret(first_key, first)
        # The last of the three: until it is there, the others are made anew.
        write_secret(keys, f"{metrics_lines}\n{first_lines}")
    elif not keep_secret(metrics_key):
        known = Keys.read(keys)
        names = ("prometheus", *(f"prometheus-{number}" for number in range(2, 100)))
        write_secret(metrics_key, add_key(keys, next(name for name in names if name not in known), ["metrics"]))
    if keep_secret(first_key):
        yield f"The first API key is in {first_key}: keep it elsewhere, and delete this file."


def _write_redis(conf: Path, url: Path) -> None:
    """Both have the same password: where one is missing, that of the other."""
    form = re.escape(REDIS_URL).replace(r"\{password\}", r"([\w-]+)")
    found = _search(r"(?m)^requirepass (\S+)", conf) or _search(rf"\A{form}\s*\Z", url)
    password = found[1] if found else secrets.token_urlsafe(32)
    if not keep_secret(conf):
        write_secret(conf, REDIS_CONF.format(password=password))
    if not keep_secret(url):
        write_secret(url, REDIS_URL.format(password=password))


def _search(pattern: str, file: Path) -> re.Match[str] | None:
    return re.search(pattern, file.read_text(encoding="utf-8")) if keep_secret(file) else None
