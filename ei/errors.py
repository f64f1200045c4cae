"""The errors that are no bugs. The scripts print them as one line: what the user can mend exits with code 2, a run that
failed with 1, a run stopped by a signal with 128 and its number. Anything else keeps its traceback."""


class InputError(ValueError):
    """Something given by the user (option, file, shape) is wrong; the message names the culprit and what to do."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that is needed is not there."""


class MissingExtraError(InputError, ImportError):
    """A package that is only installed with an extra is needed; the message has the command that installs it."""


class RunError(RuntimeError):
    """A run cannot go on; what it wrote before is good."""


class TrainingDivergedError(RunError):
    """A loss or a weight became NaN or infinite."""


class StorageError(RunError):
    """A file could not be written."""


class TrainingStoppedError(RunError):
    """The run was stopped by a signal, and has saved its state.

    Attributes:
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
