"""The DQN-Replay format: `.gz` files as Dopamine writes them."""
