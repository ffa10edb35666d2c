"""Compute targets: each opens a Dask cluster for a step, and closes it afterwards."""
