"""Readers and writers of recorded play: files to episodes."""
