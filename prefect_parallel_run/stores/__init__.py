"""Outputs in a store (``s3://…``): results as objects, and run directories that outlive the machine they were begun on."""
