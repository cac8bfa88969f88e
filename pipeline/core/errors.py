"""Exceptions that end a run, each with its exit code. A failed row is data, never an exception.

Every message says where the problem is, what is wrong, what to do, and whether anything was sent.
"""


class PipelineError(Exception):
    """The base class of every exception that this package raises on purpose."""

    exit_code = 1


class Refused(PipelineError):
    """The job file, the sheet or the call has an error. The message adds that nothing was sent."""

    exit_code = 2
    closing = "Nothing was sent."

    def __init__(self, message: str, *, closing: str | None = None) -> None:
        """`closing` replaces the last sentence of the message. An empty one removes it."""
        closing = self.closing if closing is None else closing
        super().__init__(message if closing in message else f"{message} {closing}")


def refuse_other(kinds: type | tuple[type, ...], allowed: str, **arguments: object) -> None:
    """Refuses arguments that are not of these kinds. `allowed` says what to pass instead."""
    for name, value in arguments.items():
        if not isinstance(value, kinds):
            given = "a class" if isinstance(value, type) else f"of the type {type(value).__name__}"
            raise Refused(f"{name}= is {given}. Pass {allowed}.")


class NothingWritten(Refused):
    """`Refused`, for a command that sends nothing and only writes a file for the user."""

    closing = "Nothing was written."


class StorageFailed(PipelineError):
    """The disk refused a write, or a file on it is damaged. The runner has stopped sending."""

    exit_code = 6


class DiskRefused(StorageFailed):
    """The disk refused a write. No file is damaged: the job can continue when the disk has room."""


class LedgerBusy(DiskRefused):
    """Another program has locked the ledger. Nothing was written, and nothing is damaged."""

    exit_code = 75

    def __init__(self) -> None:
        super().__init__(
            "Another program has locked ledger.sqlite, for example a database editor or a backup. "
            "Close the file there, then try again. Nothing more was sent."
        )


class Interrupted(PipelineError):
    """A signal, or a call to the run's `Control`, ended the run before it sent anything."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code or 130


class EngineAway(PipelineError):
    """No machine can send: there is no cluster, or the cluster has no room. Nothing was sent."""

    exit_code = 75


class Locked(PipelineError):
    """Another process is using this run folder. This one sent nothing."""

    exit_code = 75
