"""What makes a step a Prefect task: names, references, cancellation, caching, the form."""
