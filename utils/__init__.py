"""What the entry scripts share: options, loading, training, metrics, checkpoints, several processes."""
