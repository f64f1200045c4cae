"""The errors a user can cause. The scripts print them as one line and exit with code 2; anything else is a bug and
keeps its traceback."""


class InputError(ValueError):
    """Something given by the user (option, file, shape) is wrong; the message names the culprit and what to do."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that is needed is not there."""


class MissingExtraError(InputError, ImportError):
    """A package that is only installed with an extra is needed; the message says how to get it."""
