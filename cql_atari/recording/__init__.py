"""Collecting play: players or a learning agent play, and what they see becomes files."""
