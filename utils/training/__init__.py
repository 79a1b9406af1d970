"""One run: flags, loop, run folder, metrics, checkpoints, TensorBoard."""
