"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in the input, told in one line that names the bad value and the way out.

    The command line prints it without a traceback and exits with status 1.
    """
