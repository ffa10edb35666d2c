"""File formats of tables: one module per format divides a file into mini-batches."""
