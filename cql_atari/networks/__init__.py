"""Networks: stacked frames to features to per-game return distributions."""
