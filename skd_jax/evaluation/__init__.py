"""Greedy answers and their metrics; how student and teacher agree."""
