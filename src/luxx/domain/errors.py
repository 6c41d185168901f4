"""Everything that can go wrong, in the words of the domain.

    LuxxError
    ├── InvalidInput            well-formed but against the rules; every fault at once
    ├── Unauthenticated         no, a bad, an expired or a revoked token; wrong credentials
    ├── Forbidden               known, but not allowed
    ├── NotFound                absent, or somebody else's
    ├── Conflict                against the present state
    ├── RateLimited             too often; carries when to try again
    ├── Overloaded              this process takes no more work now
    ├── StorageUnavailable      the database cannot be reached
    ├── ToolError
    │   ├── ToolRefused         the tool cannot work with these arguments
    │   ├── ToolBroken          the tool's back end failed
    │   └── ToolTimeout         the tool was too slow
    ├── ModelError
    │   ├── ModelUnavailable    not reachable, broken off, or not understood
    │   ├── ModelTimeout        reachable, but too slow
    │   ├── ModelRateLimited    the provider asks for a pause
    │   └── ModelRejected       the provider refuses the request as it is
    ├── Interrupted             the process that wrote an answer ended before the answer did
    └── InternalError           a fault of ours
        ├── Damaged             a stored message that cannot be read
        └── DamagedUser         a stored account that cannot be read

`code` is for programs and never changes; the text is for people.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

RULES: Final[Mapping[str, str]] = {
    "required": "is required",
    "unknown": "is not a known field",
    "duplicate": "is given more than once",
    "type": "must be {expected}",
    "too_short": "must have at least {limit} characters",
    "too_long": "must have at most {limit} characters",
    "too_few": "must have at least {limit} items",
    "too_many": "must have at most {limit} items",
    "too_small": "must be at least {limit}",
    "too_large": "must be at most {limit}",
    "choice": "must be one of: {choices}",
    "characters": "may hold only letters, digits and _ - .",
    "nul": "must not hold the character U+0000",
    "email": "is not a valid e-mail address",
    "common": "is one of the most common passwords; choose another",
    "invalid": "is not valid: {reason}",
}
"""What a fault says, by rule; the parameters of a `Fault` fill the braces."""

FAULTS_LIMIT: Final = 100
"""Faults told of one input, at most: a body of 4 MiB may hold a million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with one field. `field` is a dotted path; the empty path is the whole input."""

    field: str
    rule: str
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return RULES[self.rule].format_map(self.parameters)


class LuxxError(Exception):
    """The root of all that Luxx raises on purpose."""

    code: str = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    def to_operator(self) -> str:
        """Tell it to whoever runs the service, who may be told more than a client."""
        return str(self)


class InvalidInput(LuxxError):
    """Input that breaks rules; `faults` holds them, `FAULTS_LIMIT` at most, and `more` counts the others."""

    code = "validation_failed"

    def __init__(self, *faults: Fault, more: int = 0) -> None:
        self.faults = faults[:FAULTS_LIMIT]
        self.more = more + len(faults) - len(self.faults)
        told = [f"{fault.field} {fault}".strip() for fault in self.faults]
        super().__init__("; ".join([*told, f"and {self.more} more"] if self.more else told))


class Unauthenticated(LuxxError):
    """Codes: `unauthenticated`, `token_expired`, `token_revoked`, `invalid_credentials`."""

    code = "unauthenticated"


class Forbidden(LuxxError):
    """Codes: `forbidden`, `account_disabled`."""

    code = "forbidden"


class NotFound(LuxxError):
    """Codes: `not_found`, `conversation_not_found`, `message_not_found`, `tool_not_found`."""

    code = "not_found"


class Conflict(LuxxError):
    """Codes: `username_taken`, `email_taken`, `generation_in_progress`, `idempotency_conflict`."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, code=code)


class RateLimited(LuxxError):
    """Too often; `retry_after` is in seconds."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(LuxxError):
    """This process takes no more work now; another one may. `retry_after` is in seconds."""

    code = "overloaded"
    retry_after: float = 1.0


class ToolError(LuxxError):
    """A tool call without a result. The text is shown to the model and to the caller."""

    code = "tool_failed"


class ToolRefused(ToolError):
    """The tool cannot work with these arguments: another call may do."""


class ToolBroken(ToolError):
    """The tool's back end failed: the same call may do later."""


class ToolTimeout(ToolError):
    """The tool took longer than it may."""

    code = "tool_timeout"


class ModelError(LuxxError):
    """The model gave no whole answer."""

    code = "model_unavailable"


class ModelUnavailable(ModelError):
    """Not reachable, broken off in the middle, or an answer nobody can read."""


class ModelTimeout(ModelError):
    """A deadline passed: connecting, the first token, a pause between tokens, or all of it."""

    code = "model_timeout"


class ModelRateLimited(ModelError):
    """The provider asks for a pause; `retry_after` is in seconds, None where it did not say."""

    code = "model_rate_limited"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelRejected(ModelError):
    """The provider refuses the request as it is: a wrong key, an unknown model, too long a prompt."""

    code = "model_rejected"


class Interrupted(LuxxError):
    """The process that wrote an answer ended before the answer did."""

    code = "interrupted"


class InternalError(LuxxError):
    """A fault of ours; its text never names the cause."""

    code = "internal_error"


class Damaged(InternalError):
    """A stored message cannot be read: its row was changed by somebody else. Only the operator is told which."""

    def __init__(self, message_id: str, conversation_id: str, *, columns: Sequence[str] = ()) -> None:
        super().__init__("A message of this conversation cannot be read: the log of the service names it.")
        self.message_id = message_id
        self.conversation_id = conversation_id
        self.columns = tuple(columns)

    def to_operator(self) -> str:
        where = f" ({', '.join(self.columns)})" if self.columns else ""
        return (
            f"The stored message {self.message_id!r} cannot be read{where}: mend its row, or let its owner delete it."
        )


class DamagedUser(InternalError):
    """A stored account cannot be read: its role was changed by hand. Only the operator is told whose."""

    def __init__(self, user_id: int, *, roles: Sequence[str]) -> None:
        super().__init__("An account cannot be read: the log of the service names it.")
        self.user_id = user_id
        self.roles = tuple(roles)

    def to_operator(self) -> str:
        known = " or ".join(f"'{role}'" for role in self.roles)
        return f"The role of the stored user {self.user_id} cannot be read: make it {known} in its row."


class StorageUnavailable(LuxxError):
    """The database cannot be reached now. `reason` is what it said, for the operator and never for a client."""

    code = "overloaded"
    retry_after: ClassVar[float] = 1.0

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason

    def to_operator(self) -> str:
        return f"{self} ({self.reason})" if self.reason else str(self)


PAUSE: Final = 10.0
"""Seconds to wait for a provider that asked for a pause, where nobody knows for how long."""
LONGEST_PAUSE: Final = 3600.0
"""Seconds; a provider that asks for more is not believed."""


def turn_error(code: str, message: str, *, retry_after: float | None = None) -> LuxxError:
    """Give the error that a turn ended with, as something to raise; `retry_after` is what the provider asked for."""
    kinds: tuple[type[LuxxError], ...] = (ModelUnavailable, ModelTimeout, ModelRejected, Interrupted)
    for kind in kinds:
        if kind.code == code:
            return kind(message)
    if code == ModelRateLimited.code:
        return ModelRateLimited(message, retry_after=PAUSE if retry_after is None else min(LONGEST_PAUSE, retry_after))
    if code == Overloaded.code:
        return Overloaded(message)
    if code == "message_not_found":
        return NotFound(message, code=code)
    return InternalError(message)
