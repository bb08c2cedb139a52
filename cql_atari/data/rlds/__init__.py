"""The RLDS format, as TensorFlow Datasets prepares it."""
