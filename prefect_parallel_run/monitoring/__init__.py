"""Reports a run to people and tools: log, log files, terminal, Prefect artifacts and events, status, report."""
