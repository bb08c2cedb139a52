"""A run's folder: what lies where, checkpoints, the data's manifest, logs."""
