"""Tests. They report nothing to anyone: see `app/__init__.py`."""

import app  # noqa: F401
