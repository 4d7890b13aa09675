"""Speculative Knowledge Distillation (arXiv 2410.11325) in JAX."""
