"""Trains, evaluates and exports the fusion classifier that `app` serves."""

import app  # noqa: F401  # first of all, since it keeps dependencies from reporting to their makers
