"""What a GPU makes of the torch engine and of training: `python -m benchmarks.gpu`."""
