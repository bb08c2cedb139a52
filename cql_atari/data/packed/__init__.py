"""Packed play: recorded episodes in short compressed segments that can be read in any order."""
