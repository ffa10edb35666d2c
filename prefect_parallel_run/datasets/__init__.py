"""Datasets: the files and tables that a step reads, and how each is divided into mini-batches."""
