"""Recorded play through Reverb."""
