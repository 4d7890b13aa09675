"""Divergences, token losses, and the loss without a [B, T, V] tensor."""
