"""What a person sees of a run: log lines and Prefect artifacts."""
