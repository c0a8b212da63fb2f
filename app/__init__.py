"""FusionLens, the service: an image classifier that explains its answers."""

__version__ = "0.1.0"
