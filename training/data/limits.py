"""How large pictures may be. Training and evaluation read all that Pillow decodes, since one's own data is trusted."""

from __future__ import annotations

from app.pictures.decode import Limits
from app.pictures.formats import SIGNATURES, readable_formats
from app.settings import load_settings

_PILLOW_MAX_PIXELS = 178_956_970
TRAINING_LIMITS = Limits(_PILLOW_MAX_PIXELS, _PILLOW_MAX_PIXELS, _PILLOW_MAX_PIXELS, readable_formats())


def service_limits() -> Limits:
    """Return the limits that the service has with the settings of this environment.

    Raises InvalidSettings for wrong ones.
    """
    settings = load_settings()  # `app.options` knows this too, but loads the whole service
    formats = (*SIGNATURES, *settings.more_formats)
    return Limits(settings.max_pixels, settings.max_full_pixels, settings.max_side_px, formats)
