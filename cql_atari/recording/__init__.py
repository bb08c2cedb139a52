"""What `collect` does: play becomes files."""
