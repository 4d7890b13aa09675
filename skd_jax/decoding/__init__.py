"""Sampling under jax.lax control flow; knows no config, file or tokenizer."""
