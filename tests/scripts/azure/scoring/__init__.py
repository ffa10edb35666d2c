"""A package of an Azure project."""
