"""What runs in the user's interpreter: the standard library only, and nothing of ours outside this folder."""
