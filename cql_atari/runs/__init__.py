"""A run's folder: its paths, checkpoints, the data's manifest, logs."""
