"""Text to batches of token ids; knows no model."""
