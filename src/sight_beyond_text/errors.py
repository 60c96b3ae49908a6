"""The one error that users are meant to see."""


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what, where and what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
