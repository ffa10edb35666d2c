"""How the files of a table are written, and how each kind is cut."""
