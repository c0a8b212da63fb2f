"""Every setting of the service, its default and its unit. Each is read from `FUSIONLENS_<NAME>`."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.inference.bundle import demo_bundle_path
from app.inference.cores import available_cores
from app.inference.engine import EngineKind
from app.inference.preprocess import PREVIEW_SIDE_PX, Limits


class Settings(BaseSettings):
    """The service's settings. An unknown `FUSIONLENS_` variable or a wrong value is an error at start."""

    model_config = SettingsConfigDict(env_prefix="FUSIONLENS_", frozen=True)

    bundle: Path = Field(default_factory=demo_bundle_path, description="folder of the model to serve")
    bundle_sha256: str | None = Field(None, description="refuse any bundle whose manifest has another digest")
    engine: EngineKind = Field("auto", description="what runs the model")
    cache: Path | None = Field(None, description="folder that keeps compiled graphs, for a quicker start")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")

    max_upload_bytes: int = Field(20_000_000, ge=1, description="largest request body, in bytes")
    max_pixels: int = Field(50_000_000, ge=1, le=178_000_000, description="most pixels that a picture may declare")
    max_side_px: int = Field(16_384, ge=1, description="longest side that a picture may declare, in px")

    threads: int = Field(
        default_factory=available_cores, ge=1, description="cores for the model; by default all that there are for us"
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
        256_000_000, ge=1, description="memory for stored predictions; the least used go first"
    )
    answers_max_bytes: int = Field(
        32_000_000, ge=0, description="memory for explanations given, to be given again; the least used go first"
    )
    preview_side_px: int = Field(PREVIEW_SIDE_PX, ge=32, description="longest side of the stored preview, in px")

    @model_validator(mode="before")
    @classmethod
    def _no_misspelt_variable(cls, values: dict[str, Any]) -> dict[str, Any]:
        known = [f"FUSIONLENS_{name.upper()}" for name in cls.model_fields]
        for variable in os.environ:
            if variable.upper().startswith("FUSIONLENS_") and variable.upper() not in known:
                nearest = get_close_matches(variable.upper(), known, n=1) or known
                raise ValueError(f"there is no setting {variable}: did you mean {nearest[0]}?")
        return values

    @property
    def limits(self) -> Limits:
        """What a picture may declare."""
        return Limits(self.max_pixels, self.max_side_px)
