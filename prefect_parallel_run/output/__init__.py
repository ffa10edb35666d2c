"""Publishes the output of a run: the result file, the failed items and the receipt."""
