"""What a user of this room can do wrong. Every message says what is wrong, where, and what to do."""

from classifiers.errors import DataError, IdentityError, ModelError, RecipeError, SafetroveError


class FinetuneRecipeError(RecipeError):
    """A wrong fine-tuning recipe, or keys that do not go together: nothing was loaded."""


class FinetuneDataError(DataError):
    """Chats, prompts or preference pairs that cannot be trained on; found before training starts."""


class FinetuneModelError(ModelError):
    """A model, tokenizer or chat template that does not do what the method needs."""


class SafetyTokenError(FinetuneDataError):
    """A safety-token set that is empty, or does not fit the model's vocabulary."""


class ReferenceCacheError(IdentityError):
    """Kept reference values that belong to other rows, tokens, positions or another model."""


class DivergenceError(SafetroveError):
    """A loss or gradient that is no number: training was ended."""


class ResultFolderError(IdentityError):
    """A result folder that holds the run of another recipe, or of other rows, or from another model."""
