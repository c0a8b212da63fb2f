"""How large pictures may be. Training and evaluation read all that Pillow decodes, since one's own data is trusted."""

from __future__ import annotations

from pydantic import ValidationError

from app.pictures.decode import Limits
from app.settings import Settings
from training.data.sample import DataError

_PILLOW_MAX_PIXELS = 178_956_970
TRAINING_LIMITS = Limits(_PILLOW_MAX_PIXELS, _PILLOW_MAX_PIXELS, _PILLOW_MAX_PIXELS)


def service_limits() -> Limits:
    """Return the limits that the service has with the settings of this environment. Raises DataError for wrong ones."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "".join(f" FUSIONLENS_{place}".upper() for place in first["loc"])
        raise DataError(f"the settings of this environment are wrong:{name}: {first['msg']}") from error
    return Limits(settings.max_pixels, settings.max_full_pixels, settings.max_side_px)
