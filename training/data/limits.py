"""How large pictures may be. Training and evaluation read all that Pillow decodes, since one's own data is trusted."""

from __future__ import annotations

from app.options import predictor_options
from app.pictures.decode import Limits
from app.pictures.formats import readable_formats
from app.settings import load_settings

_PILLOW_MAX_PIXELS = 178_956_970
TRAINING_LIMITS = Limits(_PILLOW_MAX_PIXELS, _PILLOW_MAX_PIXELS, _PILLOW_MAX_PIXELS, readable_formats())


def service_limits() -> Limits:
    """Return the limits that the service has with the settings of this environment.

    Raises InvalidSettings for wrong ones.
    """
    return predictor_options(load_settings()).limits
