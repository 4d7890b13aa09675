"""Meshes, processes, and the compilation cache."""
