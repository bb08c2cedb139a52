"""One's own episodes as plain NumPy arrays: `.npz` files, or folders of `.npy` files."""
