"""Runs in the flow process: decides what to do next (state.py, pure) and does it on a Dask client (dispatcher.py)."""
