"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in the input, told in one line that names the bad value and the way out.

    The command line prints it without a traceback and exits with status 1. What a terminal would not print as it is, as a
    line break in a file's name, is shown as its escape, and of a very long message the middle is left out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST // 2]} ... {line[-LONGEST // 2:]}")


LONGEST = 2000
