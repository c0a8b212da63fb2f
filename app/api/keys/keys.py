"""API keys with their rights and limits. The key file holds digests, never the keys.

A key has 256 random bits, so a single round of SHA-256 is enough: unlike a password, it cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.errors import KeysError

Right = Literal["predict", "metrics", "admin"]
PREFIX = "fl_"  # lets scanners for leaked secrets recognise a key
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]


class Key(BaseModel):
    """The rights and the limits of one key. It may have two digests while a new key replaces an old one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: list[Digest] = Field(min_length=1)
    rights: frozenset[Right] = frozenset({"predict"})
    requests_per_minute: float | None = Field(None, gt=0, strict=True, allow_inf_nan=False)
    concurrent: int | None = Field(None, ge=1, strict=True)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: dict[Name, Key] = Field(min_length=1)


class Keys:
    """The keys of a service, by name."""

    def __init__(self, by_name: Mapping[str, Key]) -> None:
        self._by_name = dict(by_name)
        self._digests = [(bytes.fromhex(text), name) for name, key in by_name.items() for text in key.sha256]

    @classmethod
    def read(cls, file: Path) -> Keys:
        """Read a key file. Raises KeysError if it cannot be used."""
        try:
            return cls(_File.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).keys)
        except OSError as error:
            raise KeysError(f"{file}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise KeysError(f"{file}: is not TOML: {error}") from error
        except ValidationError as error:
            fault = error.errors()[0]
            raise KeysError(f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error

    def find(self, presented: bytes) -> tuple[str, Key] | None:
        """The name and the entry of the presented key, or None. It is compared with all digests in constant time."""
        digest, matched = hashlib.sha256(presented).digest(), None
        for stored_digest, name in self._digests:
            if hmac.compare_digest(stored_digest, digest):
                matched = name
        return None if matched is None else (matched, self._by_name[matched])

    def __contains__(self, name: object) -> bool:
        return name in self._by_name


def new_key(
    name: str, rights: Sequence[Right], requests_per_minute: float | None = None, concurrent: int | None = None
) -> tuple[str, str]:
    """A new key, and the lines for the key file. Raises KeysError for an invalid name or limit."""
    key = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    lines = [f"[keys.{name}]", f'sha256 = ["{digest}"]', f"rights = {json.dumps([*rights])}"]
    if requests_per_minute is not None:
        lines.append(f"requests_per_minute = {requests_per_minute}")
    if concurrent is not None:
        lines.append(f"concurrent = {concurrent}")
    text = "\n".join(lines) + "\n"
    try:
        _File.model_validate(tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise KeysError(f"cannot make a key {name!r} with these limits: a name has letters, digits, _ and -") from error
    return key, text
