"""Plain data to files: logs, plots, pages, reports. Imports nothing of ours."""
