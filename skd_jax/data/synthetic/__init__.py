"""Data generated on the spot: nothing to download."""
