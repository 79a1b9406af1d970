"""The one exception that an entry script turns into a sentence and exit status 2."""


class InputError(ValueError):
    """The user's input cannot be used: the message names the file (or flag) and the next step."""
