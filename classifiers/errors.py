"""The exceptions a user can cause, and the exit code of each. Every message says what is wrong, where, and what to do."""


class SafetroveError(Exception):
    """Base of all errors that are shown to the user as one message, without a traceback."""

    exit_code = 1


class RecipeError(SafetroveError):
    """A wrong recipe or wrong arguments: nothing was started."""

    exit_code = 2


class DataError(SafetroveError):
    """Input that cannot be processed: a file that is missing, truncated or of another format."""


class IdentityError(SafetroveError):
    """A finished result was made under other settings, prompts, models or inputs than the ones asked for now."""


class ModelError(SafetroveError):
    """A model, its weights or its server cannot be used."""


class DependencyError(SafetroveError):
    """An optional dependency is missing; the message holds the `pip install` line."""
