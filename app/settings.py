"""Every setting of the service, its default and its unit.

Each is read from the variable `FUSIONLENS_<NAME>`, or from the file `fusionlens_<name>` in the folder that
`FUSIONLENS_SECRETS_DIR` names.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from app.addresses import is_loopback
from app.engines.cpu import available_cores
from app.engines.protocol import EngineKind
from app.errors import KeysError
from app.files import DEMO_BUNDLE
from app.pictures.decode import PREVIEW_SIDE_PX

PREFIX, SECRETS_DIR = "FUSIONLENS_", "FUSIONLENS_SECRETS_DIR"
MIN_SECRET_CHARS = 32


class Settings(BaseSettings):
    """The service's settings. An unknown `FUSIONLENS_` variable or a wrong value is an error at start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    bundle: Path = Field(default=DEMO_BUNDLE, description="folder of the model to serve")
    bundle_sha256: str | None = Field(None, description="refuse any bundle whose manifest has another digest")
    previous_bundles: int = Field(
        1, ge=0, description="replaced bundles that stay loaded, for as long as predictions of theirs are kept"
    )
    engine: EngineKind = Field("auto", description="what runs the model")
    cache: Path | None = Field(None, description="folder that keeps compiled graphs, for a quicker start")

    host: str = Field("127.0.0.1", description="address to listen on; any but a loopback one requires keys")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(1, ge=1, description="processes that share the port; more than one requires Redis")
    drain_s: float = Field(
        5.0, ge=0, description="on SIGTERM, how long to go on serving so that proxies notice, in seconds"
    )
    header_s: float = Field(10.0, gt=0, description="longest time for a request's headers to arrive, in seconds")

    keys: Path | None = Field(None, description="TOML file of API keys; `fusionlens new-key` writes one")
    allow_anonymous: bool = Field(False, description="serve without keys on an address that others can reach")
    cors_origins: tuple[str, ...] = Field((), description="web origins whose pages may call the API; JSON list")
    docs: bool = Field(True, description="serve /docs and /openapi.json")

    max_upload_bytes: int = Field(20_000_000, ge=1, description="largest request body, in bytes")
    uploads_max_bytes: int = Field(
        256_000_000, ge=1, description="memory for all bodies on their way; beyond it 429, in bytes"
    )
    max_pixels: int = Field(50_000_000, ge=1, le=178_000_000, description="most pixels that a picture may declare")
    max_side_px: int = Field(16_384, ge=1, description="longest side that a picture may declare, in px")

    threads: int = Field(
        default_factory=available_cores,
        ge=1,
        description="cores for the model; default: the CPUs available to this process",
    )
    gather_ms: float = Field(
        3.0, ge=0, description="on a GPU, how long a picture waits for others to form a batch, in ms"
    )
    queue_limit: int = Field(64, ge=0, description="requests that may wait for the model; more are refused with 429")
    deadline_s: float = Field(
        30.0,
        gt=0,
        description="longest time to an answer, in seconds; beyond it 429 at once, or 504",
    )
    decoders: int = Field(2, ge=1, description="pictures decoded or drawn at the same time")

    store_ttl_s: float = Field(900.0, gt=0, description="how long a prediction can be explained, in seconds")
    store_max_bytes: int = Field(
        256_000_000, ge=1, description="memory for stored predictions; the least used go first; not for Redis"
    )
    store_max_entry_bytes: int = Field(4_000_000, ge=1, description="largest prediction that Redis is given, in bytes")
    answers_max_bytes: int = Field(
        32_000_000, ge=0, description="memory for explanations given, to be given again; the least used go first"
    )
    preview_side_px: int = Field(PREVIEW_SIDE_PX, ge=32, description="longest side of the stored preview, in px")
    redis_url: SecretStr | None = Field(
        None, description="Redis to share predictions and limits, as redis://, rediss:// or unix://; else memory"
    )
    redis_secret: SecretStr | None = Field(
        None, min_length=MIN_SECRET_CHARS, description="what authenticates entries in Redis; the same for all replicas"
    )
    redis_timeout_s: float = Field(0.5, gt=0, description="longest time for one answer of Redis, in seconds")

    metrics: bool = Field(True, description="serve /metrics; not with several workers, which would each count alone")
    log: Literal["text", "json", "off"] = Field("text", description="one line per request, on standard output")
    otlp_endpoint: str | None = Field(None, description="where traces go by OTLP over HTTP; requires fusionlens[otel]")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then variables, then files of the secrets' folder."""
        folder = os.environ.get(SECRETS_DIR)
        files = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder else ()
        return (init_settings, env_settings, *files)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_variables(cls, values: dict[str, Any]) -> dict[str, Any]:
        variables = [f"{PREFIX}{name.upper()}" for name in cls.model_fields] + [SECRETS_DIR]
        for variable in os.environ:
            if variable.upper().startswith(PREFIX) and variable.upper() not in variables:
                nearest = get_close_matches(variable.upper(), variables, n=1) or variables
                raise ValueError(f"there is no setting {variable}: did you mean {nearest[0]}?")
        if (folder := os.environ.get(SECRETS_DIR)) and not Path(folder).is_dir():
            raise ValueError(f"{SECRETS_DIR} names {folder}, which is not a folder")
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
                "several workers would each keep predictions of their own in memory, where the others do not find "
                "them: set redis_url, or one worker"
            )
        if self.workers > 1 and self.metrics:
            raise ValueError("several workers would each count alone: set metrics to false, or one worker")
        return self

    def check_exposure(self) -> None:
        """Raises KeysError where others could use the service without a key, and nobody has said that they may."""
        if not (self.keys or self.allow_anonymous or is_loopback(self.host)):
            raise KeysError(
                f"Anyone who reaches {self.host} could use the service: set keys (`fusionlens new-key NAME` writes "
                "such a file), or allow_anonymous to true."
            )
