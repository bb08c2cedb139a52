"""Training: how a run begins, its main loop, its devices."""
