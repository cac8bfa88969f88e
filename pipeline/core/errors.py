"""Exceptions that end a run, one exit code each (a failed row is data, never an exception).

Every message says where, what is wrong, what to do, and whether anything was sent.
"""


class PipelineError(Exception):
    """Base of everything that this package raises on purpose."""

    exit_code = 1


class Refused(PipelineError):
    """The spec, the input or the call cannot be used. Nothing was sent, and the message says so."""

    exit_code = 2
    closing = "Nothing was sent."

    def __init__(self, message: str, *, closing: str | None = None) -> None:
        """`closing` replaces the last sentence, and "" leaves it out."""
        closing = self.closing if closing is None else closing
        super().__init__(message if closing in message else f"{message} {closing}")


class NothingWritten(Refused):
    """The same of a command that only writes a file for the user."""

    closing = "Nothing was written."


class StorageFailed(PipelineError):
    """The disk refused a write, or what it holds is damaged. Sending has stopped."""

    exit_code = 6


class DiskRefused(StorageFailed):
    """The disk took no more. Nothing that it holds is damaged: with room on it the job goes on."""


class LedgerBusy(DiskRefused):
    """Another program holds the ledger's lock. Nothing was written, and nothing is damaged."""

    exit_code = 75

    def __init__(self) -> None:
        super().__init__(
            "Another program has locked ledger.sqlite, for example a database editor or a backup. "
            "Close the file there, then give the same command again. Nothing more was sent."
        )


class Interrupted(PipelineError):
    """A signal, or whoever holds the run's `Control`, ended it before anything was sent."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code or 130


class EngineAway(PipelineError):
    """There is no machine to send from: no cluster, or no room on it. Nothing was sent."""

    exit_code = 75


class Locked(PipelineError):
    """Another process works in this run folder. Nothing was sent by this one."""

    exit_code = 75
