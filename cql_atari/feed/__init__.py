"""Feeds: episodes to batches, from memory or from a Reverb replay."""
