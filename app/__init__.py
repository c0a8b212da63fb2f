"""FusionLens, the service: an image classifier that shows its work."""

__version__ = "0.1.0"
