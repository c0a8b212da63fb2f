"""What the service withstands, measured: python -m reliability writes docs/measured/reliability.md."""
