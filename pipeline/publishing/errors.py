"""What stops a publication."""

from classifiers.errors import SafetroveError


class PublishError(SafetroveError):
    """Something that must not leave, a repository that does not fit, or a Hub that did not take what was sent."""
