"""Files and objects: listing local folders and stores, reading and writing objects by URL."""
