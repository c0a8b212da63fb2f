"""The errors of the domain. They know nothing of HTTP: `app.api.problems` maps each of them to a status.

The docstrings appear in the OpenAPI document, as the meaning of each problem.
"""

from __future__ import annotations

from collections.abc import Sequence


class FusionLensError(Exception):
    """Base class of every error that a caller can act on. Its text is a sentence for that caller."""

    exit_status: int = 1  # of a command that ends with it


class BundleError(FusionLensError):
    """The bundle must not be served. The message names the file and the reason."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


class EngineError(FusionLensError):
    """The chosen engine cannot run on this machine."""


class MalformedTarget(FusionLensError):
    """The path has control characters, or the query has too many parameters."""


class TargetTooLong(FusionLensError):
    """The path and the query are longer than any that this service understands."""


class EmptyUpload(FusionLensError):
    """The request carries no picture."""


class MalformedUpload(FusionLensError):
    """The body does not match its content type."""


class MissingField(FusionLensError):
    """The form has no field with a picture."""


class UploadTooLarge(FusionLensError):
    """The body is larger than the service accepts."""


class UnsupportedMediaType(FusionLensError):
    """The content type or the file is not a picture in a supported format."""


class PictureTooLarge(FusionLensError):
    """The picture declares more pixels, or its file more parts, than the service decodes."""


class UnreadablePicture(FusionLensError):
    """The picture is in a supported format, but it is truncated, damaged, or of an unsupported pixel type."""


class BadParameter(FusionLensError):
    """A parameter has a value that is not allowed."""


class NotOffered(FusionLensError):
    """The model lacks what the request needs, such as a branch or a cross-attention."""


class UnknownPrediction(FusionLensError):
    """No stored prediction has this id: the id is wrong, or the prediction has expired or was deleted."""


class ModelGone(FusionLensError):
    """The model that made the stored prediction is no longer loaded."""


class Overloaded(FusionLensError):
    """The queue is full, or the answer would miss the deadline."""

    retry_after_s: int
    """expected wait for a place in the queue"""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"The service is busy; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(FusionLensError):
    """The answer was not ready within the service's time limit."""


class UploadTooSlow(FusionLensError):
    """The body did not arrive within the time limit."""


class Unauthorized(FusionLensError):
    """The request has no API key, or one that the service does not know."""


class Forbidden(FusionLensError):
    """The API key does not have the right that the route requires."""


class TooManyRequests(FusionLensError):
    """The API key has reached one of its limits."""

    retry_after_s: int
    """wait until the next request of this key is allowed"""

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(f"{reason}; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class NotReady(FusionLensError):
    """The service is shutting down, or something that it needs to start is missing."""


class StoreUnavailable(FusionLensError):
    """The store cannot be reached, or it holds an entry that this service did not write."""


class EntryTooLarge(FusionLensError):
    """The prediction is larger than the store accepts."""


class ReloadRefused(FusionLensError):
    """The new bundle or the new keys cannot be used. The service keeps the previous ones."""


class InvalidSettings(FusionLensError):
    """Settings that cannot be used. There is a sentence for each of them, which names its variable."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = tuple(sentences)


class KeysError(FusionLensError):
    """The API keys are missing or cannot be used. The message gives the reason."""
