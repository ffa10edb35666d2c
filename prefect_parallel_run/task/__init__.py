"""Integrates a step with Prefect: names, references, cancellation, caching, the form."""
