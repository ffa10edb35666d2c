"""Beside the entry script."""
