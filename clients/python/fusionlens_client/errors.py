"""What the client raises. Every message is a sentence for the caller.

A `Problem` is an error that the service answered, as RFC 9457 has it. Each stable name of a problem has a class, and
`PROBLEMS` is the table of them. A name that this version does not know is a plain `Problem`.
"""

from __future__ import annotations


class FusionLensError(Exception):
    """Base class of every error that this client raises."""


class InvalidInput(FusionLensError, ValueError):
    """An argument, the environment or a client that was closed cannot be used. Nothing was sent."""


class ConnectionFailed(FusionLensError):
    """The service could not be reached, or the connection broke off."""


class TimedOut(ConnectionFailed):
    """The service did not answer within the client's time limit."""


class UnexpectedAnswer(FusionLensError):
    """The answer is not one of FusionLens, too large, or one of a version that this client cannot read."""


class Problem(FusionLensError):
    """The service refused the request, or failed on it. The message is the service's own sentence."""

    status: int
    """the HTTP status"""
    type: str
    """the URI that names the kind of problem; empty if it was not the service that answered"""
    retry_after_s: float | None
    """after how many seconds the service wants to be asked again, if it says so"""
    request_id: str | None
    """the request's name in the service's log"""

    def __init__(
        self,
        detail: str,
        *,
        status: int = 0,
        type: str = "",
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.type, self.retry_after_s, self.request_id = status, type, retry_after_s, request_id


class MalformedRequest(Problem):
    """This is no request of HTTP/1.1."""


class MalformedTarget(Problem):
    """The path has control characters, or the query has too many parameters."""


class EmptyUpload(Problem):
    """The request carries no picture."""


class MalformedUpload(Problem):
    """The body does not match its content type."""


class Unauthorized(Problem):
    """The request has no API key, or one that the service does not know."""


class Forbidden(Problem):
    """The API key does not have the right that the route requires."""


class NotFound(Problem):
    """The service has no such route."""


class UnknownPrediction(Problem):
    """The prediction has expired or was forgotten, or it belongs to another key."""


class MethodNotAllowed(Problem):
    """The route does not have this method."""


class RequestTimeout(Problem):
    """The headers of the request did not arrive in time."""


class UploadTooSlow(Problem):
    """The body did not arrive within the time limit."""


class ReloadRefused(Problem):
    """The new bundle or the new keys cannot be used. The service keeps the previous ones."""


class ModelGone(Problem):
    """The model that made the stored prediction is no longer loaded."""


class UploadTooLarge(Problem):
    """The body is larger than the service accepts."""


class PictureTooLarge(Problem):
    """The picture has more pixels, or its file more parts, than the service decodes."""


class UriTooLong(Problem):
    """The path and the query are too long."""


class UnsupportedMediaType(Problem):
    """The file is not a picture in a supported format."""


class MissingField(Problem):
    """The form has no field with a picture."""


class UnreadablePicture(Problem):
    """The picture is truncated, damaged, or of an unsupported pixel type."""


class BadParameter(Problem):
    """A parameter has a value that is not allowed."""


class NotOffered(Problem):
    """The model lacks what the request needs, such as a branch or an index of cases."""


class Overloaded(Problem):
    """The queue is full, or the answer would miss the deadline."""


class TooManyRequests(Problem):
    """The API key has reached one of its limits."""


class HeadersTooLarge(Problem):
    """The request has too many headers, or too many bytes of them."""


class Internal(Problem):
    """The service failed on this request; its log says why."""


class NotReady(Problem):
    """The service is about to stop, or something that it needs to start is missing."""


class StoreUnavailable(Problem):
    """The store of predictions cannot be reached."""


class BundleUnusable(Problem):
    """A file of the model that is needed only now cannot be used."""


class EngineUnusable(Problem):
    """The engine cannot run what the request needs."""


class TooManyConnections(Problem):
    """There are too many connections from this address."""


class DeadlineExceeded(Problem):
    """The answer was not ready within the service's time limit."""


TYPE_PREFIX = "urn:fusionlens:problem:"
PROBLEMS: dict[str, type[Problem]] = {
    "malformed-request": MalformedRequest,
    "malformed-target": MalformedTarget,
    "empty-upload": EmptyUpload,
    "malformed-upload": MalformedUpload,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not-found": NotFound,
    "unknown-prediction": UnknownPrediction,
    "method-not-allowed": MethodNotAllowed,
    "request-timeout": RequestTimeout,
    "upload-too-slow": UploadTooSlow,
    "reload-refused": ReloadRefused,
    "model-gone": ModelGone,
    "upload-too-large": UploadTooLarge,
    "picture-too-large": PictureTooLarge,
    "uri-too-long": UriTooLong,
    "unsupported-media-type": UnsupportedMediaType,
    "missing-field": MissingField,
    "unreadable-picture": UnreadablePicture,
    "bad-parameter": BadParameter,
    "not-offered": NotOffered,
    "overloaded": Overloaded,
    "too-many-requests": TooManyRequests,
    "headers-too-large": HeadersTooLarge,
    "internal": Internal,
    "not-ready": NotReady,
    "store-unavailable": StoreUnavailable,
    "bundle-unusable": BundleUnusable,
    "engine-unusable": EngineUnusable,
    "too-many-connections": TooManyConnections,
    "deadline-exceeded": DeadlineExceeded,
}
