"""In the flow process: what to do next (state.py, pure) and doing it on a Dask client (dispatcher.py)."""
