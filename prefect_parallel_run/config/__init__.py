"""The user's configuration and its parts, validated as a whole."""
