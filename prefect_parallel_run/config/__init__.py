"""What a person says: the configuration and its parts, checked whole."""
