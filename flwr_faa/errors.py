"""The errors of both packages. Each is a :class:`FlwrAnomalyError`, and still the built-in error that it is a case of.

``except ValueError`` around a call of ours works as it always did; ``except FlwrAnomalyError`` tells our errors from
everybody else's. ``docs/how-to/errors.md`` lists them.
"""

from __future__ import annotations


class FlwrAnomalyError(Exception):
    """The root of all errors of ``flwr_faa`` and ``flwr_lomar``.

    Examples
    --------
    >>> from flwr_faa import FAADL
    >>> try:
    ...     FAADL(verify_timeout=-1.0)
    ... except FlwrAnomalyError as error:
    ...     print(isinstance(error, ValueError), error)
    True expected verify_timeout to be a finite number above 0, got -1.0
    """


class ArgumentTypeError(FlwrAnomalyError, TypeError):
    """An argument is another kind of object than expected."""


class ArgumentValueError(FlwrAnomalyError, ValueError):
    """An argument has the right kind, but a value that cannot work."""


class RunError(FlwrAnomalyError, RuntimeError):
    """A run, or a round of a device, cannot go on."""


class NoLedgerError(FlwrAnomalyError, FileNotFoundError):
    """A folder holds no ledger."""


class NoRoomError(FlwrAnomalyError, MemoryError):
    """Something takes more memory than this machine has in all."""


class MissingExtraError(FlwrAnomalyError, ImportError):
    """A package is missing that an extra of ``flwr-anomaly`` installs."""

    def __init__(self, package: str, extra: str, what: str) -> None:
        super().__init__(f"expected {package} for {what}, got none: pip install 'flwr-anomaly[{extra}]'", name=package)
