"""The one error a user can mend."""


class UserError(ValueError):
    """Something the user can put right: the message names the field, the value, the rule and the remedy.

    The command line prints it alone and exits with code 2; ``--debug`` shows the traceback too.
    """
