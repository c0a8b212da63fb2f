"""Every setting of the service, with its default and its unit.

A setting is read from the environment variable `FUSIONLENS_<NAME>`, or from the file `fusionlens_<name>` in the folder
that `FUSIONLENS_SECRETS_DIR` names.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.addresses import LISTENING_HOST, http_url, is_loopback, web_origins
from app.arguments import PLAIN_NUMBERS
from app.engines.cpu import available_cores
from app.engines.protocol import DeviceKind, EngineKind
from app.errors import InvalidSettings, KeysError
from app.files import DEMO_BUNDLE
from app.pictures.decode import PREVIEW_SIDE_PX
from app.pictures.formats import MORE_FORMATS, is_installed

PREFIX, SECRETS_DIR = "FUSIONLENS_", "FUSIONLENS_SECRETS_DIR"
MIN_SECRET_CHARS = 32


def _not_empty(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty: give a value, or leave the setting out")
    return value


def _listed(value: str | Sequence[object]) -> Sequence[object]:
    """The entries of a list, of a text with commas between them, or of a JSON list. Raises ValueError."""
    if not isinstance(value, str):
        return value
    if not value.strip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        entries: list[object] = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it begins as a JSON list but is none ({error}): put commas between the entries") from error
    return entries


GivenPath = Annotated[Path, BeforeValidator(_not_empty)]  # an empty text would mean the working folder
# Every number has an upper bound too: beyond it, it is a mistake, or more than sockets, timers and Redis can take.
# A bound of an annotation would take the place of a setting's own, so numbers of one kind share a function instead.
Seconds = Annotated[float, Field(le=31_536_000)]


def _bytes(default: int, *, description: str, ge: int = 1) -> Any:
    """A setting in bytes."""
    return Field(default, ge=ge, le=2**50, description=description)


def _count(default: int | None = None, *, description: str, ge: int = 0, le: int = 1_000_000, **options: Any) -> Any:
    """A setting that is a number of something. `options` are those of `Field`, such as a factory of the default."""
    if "default_factory" not in options:
        options["default"] = default
    return Field(ge=ge, le=le, description=description, **options)


class _PlainText:
    """Gives a setting's text to its validators as it is. pydantic-settings itself would read lists as JSON only."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return value


class _Variables(_PlainText, EnvSettingsSource):
    """Variables of the environment."""


class _SecretFiles(_PlainText, SecretsSettingsSource):
    """Files in the folder of secrets."""


class Settings(BaseSettings):
    """The settings of the service. An unknown `FUSIONLENS_` variable or an invalid value is an error at start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, allow_inf_nan=False)

    bundle: GivenPath = Field(default=DEMO_BUNDLE, description="folder of the bundle to serve")
    bundle_sha256: str | None = Field(
        None, pattern="^[0-9A-Fa-f]{64}$", description="SHA-256 of the manifest of the only bundle to accept"
    )
    previous_bundles: int = _count(
        1,
        description="replaced bundles that stay loaded to explain their predictions, until these expire",
    )
    engine: EngineKind = Field("auto", description="engine that runs the model")
    device: DeviceKind = Field(
        "auto",
        description="what the engine runs on: a CUDA GPU if torch finds one, else the CPU (auto); the CPU (cpu); or a "
        "CUDA GPU and nothing else, so that the service does not start without one (cuda)",
    )
    cache: GivenPath | None = Field(None, description="folder for compiled graphs, which makes the next start quicker")

    host: Annotated[str, BeforeValidator(_not_empty)] = Field(
        "127.0.0.1",
        pattern=LISTENING_HOST,
        description="address to listen on; any but a loopback address requires keys",
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="port to listen on; 0 chooses a free one; `fusionlens serve` takes `PORT` where this is not set",
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="path prefix under which a proxy serves the API, such as /lens",
    )
    workers: int = _count(1, ge=1, le=1024, description="processes that share the port; more than one requires Redis")
    drain_s: float = Field(
        5.0,
        ge=0,
        le=86_400,
        description="after SIGTERM, how long to keep serving so that proxies can notice, in seconds",
    )
    max_connections: int = _count(
        1024,
        ge=32,
        description="connections of a process, a quarter of them from one address; fewer if it may open fewer files",
    )
    header_s: Seconds = Field(10.0, ge=0.1, description="time limit for the headers of a request to arrive, in seconds")

    keys: GivenPath | None = Field(None, description="TOML file of API keys; `fusionlens new-key` writes one")
    allow_anonymous: bool = Field(False, description="serve without keys on an address that other machines can reach")
    cors_origins: tuple[str, ...] = Field(
        (), description="web origins whose pages may call the API, with commas between them or as a JSON list"
    )
    docs: bool = Field(True, description="serve /docs and /openapi.json")

    max_upload_bytes: int = _bytes(20_000_000, ge=1000, description="largest request body, in bytes")
    uploads_max_bytes: int = _bytes(
        256_000_000,
        ge=1000,
        description="memory for all request bodies being received, in bytes, half of it for one user; beyond it, 429; "
        "no body may be larger than all of it",
    )
    max_pixels: int = Field(
        50_000_000, ge=1, le=178_000_000, description="largest number of pixels that a JPEG may declare"
    )
    max_full_pixels: int = Field(
        25_000_000,
        ge=1,
        le=178_000_000,
        description="the same for pictures that are no JPEGs, which cannot be decoded at a reduced scale",
    )
    more_formats: tuple[Literal[*MORE_FORMATS], ...] = Field(  # type: ignore[valid-type]
        (),
        description="further formats to read, as a list like that of origins: AVIF, and HEIF, which requires "
        "fusionlens[heif]",
    )
    max_side_px: int = _count(16_384, ge=1, description="longest side that a picture may declare, in px")

    threads: int = _count(
        default_factory=available_cores,
        ge=1,
        le=4096,
        description="CPU cores for the model; default: the CPUs available to this process",
    )
    gather_ms: float = Field(
        3.0, ge=0, le=60_000, description="on a GPU, how long a picture waits for others to form a batch, in ms"
    )
    queue_limit: int = _count(64, description="requests that may wait in each queue; further ones are refused with 429")
    deadline_s: Seconds = Field(
        30.0,
        ge=0.05,
        description="time limit for an answer, in seconds: 429 at once if it cannot be met, 504 if it passes",
    )
    decoders: int = _count(
        2,
        ge=2,
        le=1024,
        description="processes that decode pictures, and threads that compute and draw explanations; no user has all "
        "processes at once",
    )
    decoder_max_bytes: int = _bytes(
        768_000_000,
        ge=256_000_000,
        description="largest address space of a process that decodes pictures, in bytes",
    )
    decoder_cpu_s: Seconds = Field(
        2.0, ge=0.1, description="processor time that decoding one picture may take, in seconds; beyond it, 422"
    )

    store_ttl_s: Seconds = Field(900.0, ge=1, description="how long a prediction can be explained, in seconds")
    store_max_bytes: int = _bytes(
        256_000_000,
        description="memory for stored predictions, in bytes; the least recently used go first; unused with Redis",
    )
    store_max_entry_bytes: int = _bytes(4_000_000, description="largest prediction to store in Redis, in bytes")
    answers_max_bytes: int = Field(
        32_000_000,
        ge=0,
        le=2**50,
        description="memory for the cache of explanations, in bytes; the least recently used go first",
    )
    preview_side_px: int = _count(PREVIEW_SIDE_PX, ge=32, description="longest side of the stored preview, in px")
    redis_url: SecretStr | None = Field(
        None,
        description="Redis that replicas share, as redis://, rediss:// or unix://; default: none",
    )
    redis_secret: SecretStr | None = Field(
        None,
        min_length=MIN_SECRET_CHARS,
        description="secret that authenticates entries in Redis; the same for all replicas",
    )
    redis_timeout_s: Seconds = Field(0.5, ge=0.01, description="time limit for one answer of Redis, in seconds")

    metrics: bool = Field(
        True, description="serve /metrics; impossible with several workers, because each would count alone"
    )
    log: Literal["text", "json", "off"] = Field(
        "text", description="format of the log on standard output, which has one line per request"
    )
    otlp_endpoint: str | None = Field(
        None,
        description="address to send traces to, by OTLP over HTTP; requires fusionlens[otel]",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, and variables over files in the folder of secrets."""
        folder = os.environ.get(SECRETS_DIR)
        files = (_SecretFiles(settings_cls, secrets_dir=folder),) if folder and Path(folder).is_dir() else ()
        return (init_settings, _Variables(settings_cls), *files)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_number(cls, value: Any, info: Any) -> Any:
        """Numbers are written as other readers of the same variable expect them: `1_000` and `8000.0` are no ports."""
        kind = cls.model_fields[info.field_name].annotation
        if kind in PLAIN_NUMBERS and isinstance(value, str) and not re.fullmatch(PLAIN_NUMBERS[kind], value.strip()):
            raise ValueError(f"Input should be a {'whole ' if kind is int else ''}number, in plain digits")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _parse_origins(cls, value: Any) -> Any:
        return web_origins(_listed(value)) if isinstance(value, str | list | tuple) else value

    @field_validator("more_formats", mode="before")
    @classmethod
    def _parse_formats(cls, value: Any) -> Any:
        names = _listed(value) if isinstance(value, str) else value
        return [name.upper() if isinstance(name, str) else name for name in names]

    @field_validator("more_formats")
    @classmethod
    def _check_formats(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        if missing := [name for name in formats if not is_installed(name)]:
            raise ValueError(f"{missing[0]} needs a library that is not installed: pip install 'fusionlens[heif]'")
        return formats

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_otlp_endpoint(cls, url: str | None) -> str | None:
        return None if url is None else http_url(url)

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it must begin with redis://, rediss:// or unix://")
        try:  # the errors quote the address, and the password may be in any part of it
            parts = urlsplit(url.get_secret_value())
            is_readable = parts.scheme == "unix" or (bool(parts.hostname) and parts.port != 0)
            is_readable &= parts.path.strip("/").isdigit() or parts.scheme == "unix" or not parts.path.strip("/")
        except ValueError:
            is_readable = False
        if not is_readable or parts.fragment:
            raise ValueError(
                "it is not like redis://:PASSWORD@HOST:PORT/NUMBER: in a password, write / ? # @ and : as %2F %3F %23 "
                "%40 and %3A"
            )
        return url

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_variables(cls, values: dict[str, Any]) -> dict[str, Any]:
        variables = [f"{PREFIX}{name.upper()}" for name in cls.model_fields] + [SECRETS_DIR]
        for variable in os.environ:
            if variable.upper().startswith(PREFIX) and variable.upper() not in variables:
                nearest = get_close_matches(variable.upper(), variables, n=1) or variables
                raise ValueError(f"there is no setting {variable}: did you mean {nearest[0]}?")
        given = Counter(variable.upper() for variable in os.environ if variable.upper().startswith(PREFIX))
        if twice := [variable for variable, count in given.items() if count > 1]:
            raise ValueError(f"{twice[0]} is set twice, in small and in capital letters: keep one of them")
        if (folder := os.environ.get(SECRETS_DIR)) and not Path(folder).is_dir():
            raise ValueError(f"{SECRETS_DIR} names {folder}, which is not a folder")
        for file in Path(folder).iterdir() if folder else ():
            name = file.name.upper()
            if name.startswith(PREFIX) and name not in variables:
                nearest = get_close_matches(name, variables, n=1) or variables
                raise ValueError(f"there is no setting for the file {file}: did you mean {nearest[0].lower()}?")
            if name.startswith(PREFIX) and not file.is_file():
                raise ValueError(f"{file} is not a file: a folder appears where a file to mount was missing")
        return values

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if self.redis_url is not None and self.redis_secret is None:
            raise ValueError(
                f"redis_url needs redis_secret: at least {MIN_SECRET_CHARS} random characters, "
                "the same for all replicas"
            )
        if self.workers > 1 and self.redis_url is None:
            raise ValueError(
                "several workers would each keep predictions in memory of their own, which the others cannot read: "
                "set redis_url, or workers to 1"
            )
        if self.workers > 1 and self.metrics:
            raise ValueError("several workers would each count alone: set metrics to false, or workers to 1")
        return self

    @property
    def max_body_bytes(self) -> int:
        """The largest request body: also one that is alone must fit into the memory for all of them."""
        return min(self.max_upload_bytes, self.uploads_max_bytes)

    def check_exposure(self, door: str | None = None) -> None:
        """Raises KeysError if other machines could use the service without a key, unless `allow_anonymous` is set.

        `door` names what they reach it through, where that is not `host`.
        """
        if not (self.keys or self.allow_anonymous or is_loopback(self.host)):
            raise KeysError(
                f"Anyone who reaches {door or self.host} could use the service: set keys (`fusionlens new-key NAME` "
                "writes such a file), or set allow_anonymous to true."
            )


def load_settings(**overrides: Any) -> Settings:
    """Read all settings; `overrides` win over variables and files. Raises InvalidSettings."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise InvalidSettings([_fault_sentence(fault) for fault in error.errors()]) from None  # it quotes secrets
    except SettingsError as error:  # a file of secrets that cannot be read
        raise InvalidSettings([f"{SECRETS_DIR}: {error} ({error.__cause__})"]) from error


def _fault_sentence(fault: Any) -> str:
    name, reason = ".".join(map(str, fault["loc"][:1])), fault["msg"].removeprefix("Value error, ")
    return f"setting {name} ({PREFIX}{name.upper()}): {reason}" if name else reason
