"""The exceptions of the pretraining room. The command line prints the message and exits with `exit_code`."""


class PretrainError(Exception):
    """Base of all errors that are shown to the user as one message, without a traceback."""

    exit_code = 1


class PretrainRecipeError(PretrainError):
    """A wrong recipe or wrong arguments: nothing was started."""

    exit_code = 2


class PretrainDataError(PretrainError):
    """Token files or a blend file that are missing, truncated, or of another format than asked for."""


class CheckpointError(PretrainError):
    """A checkpoint that is incomplete, or that belongs to other data or to another model."""


class PretrainInterruptedError(PretrainError):
    """SIGTERM came; the run was saved and is not finished (128 + 15, as a shell would report it)."""

    exit_code = 143


class PretrainDependencyError(PretrainError):
    """An optional package that the recipe asks for is not installed."""
