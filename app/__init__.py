"""FusionLens, the service: an image classifier that explains its answers.

Nothing of it connects anywhere that the user did not name. Some dependencies would report to their makers. They are
kept from it here, since this module is imported before any other of `app` and `training`.
"""

import os
import sys

__version__ = "0.1.0"

# By this package OpenVINO reports its import and every conversion to an analytics host, and keeps an id in the home
# folder. Where the package cannot be imported, OpenVINO does without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# Ray reports its use, wandb its errors, and huggingface_hub asks for more than the weights that a recipe names. What
# the user has set stays.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
