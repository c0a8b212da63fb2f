"""What the service withstands, measured: python -m reliability writes docs/reliability.md."""
