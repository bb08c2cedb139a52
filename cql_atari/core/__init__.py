"""What everything else stands on: types, games, settings."""
