"""Every error fleetcast raises on purpose.

    FleetcastError
    ├── ConfigError              a config file or key is wrong; the message names both
    ├── DataError                a file or a frame cannot be read as fleet data
    ├── ArtifactError            a stored model is corrupted, foreign or of an unknown format
    ├── RegistryError
    │   ├── UnknownVersion       no such version or alias
    │   └── AuditError           the audit log does not verify
    ├── StateError               stored state is damaged, missing, or owned by another
    ├── TrainingError            a model could not be trained; the champion keeps serving
    ├── NothingNew               an update was skipped: its windows have too little to teach
    └── RequestError             a request cannot be answered; carries an HTTP status
        ├── NotAuthorized        no token, or a wrong one
        ├── Forbidden            a token without the scope, or a request that may not come this way
        ├── UnknownServer
        ├── UnknownEvent
        ├── UnknownUpdate
        ├── Conflict             the request and what is stored do not go together
        ├── PreconditionFailed   what was seen, as If-Match tells, is not what stands any more
        ├── PreconditionRequired a change that wants to be told what was seen
        ├── TooLarge             a body, or what it inflates to, is over the limit
        ├── TooSlow              a body whose end does not come
        ├── UnsupportedMedia     a content type or encoding that is not read here
        ├── Unprocessable        readable, but not something that can be answered
        ├── NotReady             nothing is there yet that could answer
        └── Busy                 over a limit; try again after `retry_after_s`

Programmer errors stay `assert` and `TypeError`.
"""

from __future__ import annotations

from typing import Any


class FleetcastError(Exception):
    """Base of every error fleetcast raises on purpose."""


class ConfigError(FleetcastError):
    """A config file or key is wrong; the message names both."""


class DataError(FleetcastError):
    """A file or a frame cannot be read as fleet data."""


class ArtifactError(FleetcastError):
    """A stored model is corrupted, foreign or of an unknown format."""


class RegistryError(FleetcastError):
    """The registry cannot do what was asked."""


class UnknownVersion(RegistryError):
    """No such version or alias."""


class AuditError(RegistryError):
    """The audit log does not verify."""


class StateError(FleetcastError):
    """Stored state is damaged, missing where it must be, or owned by another."""


class TrainingError(FleetcastError):
    """A model could not be trained; the champion keeps serving."""


class NothingNew(FleetcastError):
    """An update was skipped: its windows have too little to teach."""


class RequestError(FleetcastError):
    """A request cannot be answered.

    `status` is the HTTP status, `kind` the last part of the problem's type, `retry_after_s` the
    seconds to wait before another try (0: none said).
    """

    status = 400
    kind = "bad-request"

    def __init__(self, detail: str, *, retry_after_s: int = 0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class NotAuthorized(RequestError):
    """No token, or a wrong one."""

    status = 401
    kind = "not-authorized"


class Forbidden(RequestError):
    """A token without the scope, or a request that may not come this way."""

    status = 403
    kind = "forbidden"


class UnknownServer(RequestError):
    """No such server in this fleet."""

    status = 404
    kind = "unknown-server"


class UnknownEvent(RequestError):
    """No such event."""

    status = 404
    kind = "unknown-event"


class UnknownUpdate(RequestError):
    """No verdict on such an update is on record."""

    status = 404
    kind = "unknown-update"


class Conflict(RequestError):
    """The request and what is stored do not go together."""

    status = 409
    kind = "conflict"

    def __init__(
        self, detail: str, *, retry_after_s: int = 0, report: dict[str, Any] | None = None
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.report = report
        """The gate's, where it is what stands against the request."""


class PreconditionFailed(RequestError):
    """What was seen, as If-Match tells, is not what stands any more."""

    status = 412
    kind = "precondition-failed"


class PreconditionRequired(RequestError):
    """A change that wants to be told what was seen: send If-Match."""

    status = 428
    kind = "precondition-required"


class TooLarge(RequestError):
    """A body, or what it inflates to, is over the limit."""

    status = 413
    kind = "too-large"


class TooSlow(RequestError):
    """A body whose end does not come."""

    status = 408
    kind = "too-slow"


class UnsupportedMedia(RequestError):
    """A content type or encoding that is not read here."""

    status = 415
    kind = "unsupported-media"


class Unprocessable(RequestError):
    """Readable, but not something that can be answered."""

    status = 422
    kind = "unprocessable"


class NotReady(RequestError):
    """Nothing is there yet that could answer."""

    status = 503
    kind = "not-ready"


class Busy(RequestError):
    """Over a limit; try again after `retry_after_s`."""

    status = 503
    kind = "busy"
