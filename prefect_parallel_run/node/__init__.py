"""The code in a Dask worker: slots that each supervise one child, and the function that Dask calls with a lease."""
