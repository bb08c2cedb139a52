"""Feeds: episodes to batches, from memory, from packed play or from a Reverb replay."""
