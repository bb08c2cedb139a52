"""Play of the learning agent through Reverb."""
