"""Stand-ins for azureml-core in the entry script's process."""
