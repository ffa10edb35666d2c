"""Files and settings of Azure ML: what they say in the words of this package, and what is different, field by field."""
