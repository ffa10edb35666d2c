"""The code in the user's interpreter: imports the standard library only, and nothing of this package outside the folder."""
