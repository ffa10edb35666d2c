"""Files and settings of Azure ML: converts them to those of this package, and reports what differs, field by field."""
