"""What goes in: files and tables, and how each is cut into mini-batches."""
