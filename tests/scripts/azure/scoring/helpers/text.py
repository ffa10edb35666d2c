"""Words for numbers."""


def in_words(names, number):
    """Return the name of a class."""
    return names[number % len(names)]
