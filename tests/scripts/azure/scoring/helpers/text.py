"""Words for numbers."""


def describe_command(names, number):
    """Return the name of a class."""
    return names[number % len(names)]
