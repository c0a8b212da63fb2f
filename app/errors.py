"""What can go wrong, in the words of the domain. Nothing here knows HTTP: `app.api.problems` has the one table."""

from __future__ import annotations


class FusionLensError(Exception):
    """Base of every error that a caller can act on; its text is a sentence for that caller."""


class BundleError(FusionLensError):
    """A bundle that must not be served: which of its files, and why."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


class EngineError(FusionLensError):
    """The engine asked for cannot run here."""


class EmptyUpload(FusionLensError):
    """A request that carries no picture."""


class MalformedUpload(FusionLensError):
    """A body that is not what its content type says."""


class MissingField(FusionLensError):
    """A form without the field that holds the picture."""


class UploadTooLarge(FusionLensError):
    """More bytes than the service takes."""


class UnsupportedMediaType(FusionLensError):
    """A content type, or a file, that is not a picture in a format we read."""


class PictureTooLarge(FusionLensError):
    """A picture whose header declares more pixels than the service decodes."""


class UnreadablePicture(FusionLensError):
    """A picture in a format we read, but truncated, damaged, or of a pixel type without an agreed range."""


class BadParameter(FusionLensError):
    """A parameter with a value that is not allowed."""


class NotOffered(FusionLensError):
    """Something this model does not have, such as a branch or an attention."""


class UnknownPrediction(FusionLensError):
    """A prediction id that was never given, has expired, or was forgotten."""


class ModelGone(FusionLensError):
    """A stored prediction made by a model that is no longer loaded."""


class Overloaded(FusionLensError):
    """The queue is full. `retry_after_s` is when a place is expected to be free."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"The service is busy; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(FusionLensError):
    """The answer would come later than the service's time limit."""


class UploadTooSlow(FusionLensError):
    """A body that did not arrive in time."""


class Unauthorized(FusionLensError):
    """A request without a key that the service knows."""


class Forbidden(FusionLensError):
    """A key without the right to what was asked."""


class TooManyRequests(FusionLensError):
    """A key beyond its own limits. `retry_after_s` is when its next request is allowed."""

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(f"{reason}; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class NotReady(FusionLensError):
    """The service is about to stop, or lacks what it needs to start."""


class StoreUnavailable(FusionLensError):
    """The store cannot be reached, or holds what this service did not write."""


class EntryTooLarge(FusionLensError):
    """A prediction of more bytes than the store takes."""


class ReloadRefused(FusionLensError):
    """A bundle that was not loaded; the one before is still served."""


class KeysError(FusionLensError):
    """A file of keys that cannot be used: why."""
