"""Commands beside the main ones: `python -m cql_atari.tools.<tool>`."""
