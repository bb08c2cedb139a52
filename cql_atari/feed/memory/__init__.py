"""All transitions in memory, or mapped from a cache file."""
