"""Where a step runs: each compute target opens a Dask cluster and closes it again."""
