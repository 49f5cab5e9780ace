"""Every error that a user can meet; its message is one line that names the value, the place and the cure."""


class UserError(ValueError):
    """A mistake that the person at the command line can mend; the message says how."""


ConfigError = UserError
"""The name of `UserError` in earlier versions."""


def missing_packages(what: str, *packages: str, reason: str | None = None) -> UserError:
    """Return the error of something that needs packages which cannot be imported.

    Args:
        what: What needs them, such as "the page".
        packages: Their names on the package index. An extra of this package would install them too, but how to name it
            depends on where this package came from; their own names always work.
        reason: Why they cannot be imported, if they may be there and not fit.
    """
    because = "" if reason is None else f" ({' '.join(reason.split())})"
    return UserError(f"{what} needs {' and '.join(packages)}: pip install {' '.join(packages)}{because}")


def check_halvings(resolution: int, num_halvings: int, network: str) -> None:
    """Raise UserError unless a height and width in pixels can be halved as often as a network does it.

    Args:
        resolution: Height and width.
        num_halvings: How often the network halves them.
        network: What to call it.
    """
    factor = 2**num_halvings
    if resolution % factor:
        raise UserError(
            f"resolution is {resolution}; {network} halves it {num_halvings} times, so it must be a multiple of "
            f"{factor} (the nearest is {max(1, round(resolution / factor)) * factor})"
        )


class RunError(RuntimeError):
    """A run that cannot go on, for a reason outside it; the message says what is safe and how to continue."""


class RunStopped(Exception):
    """A run that a signal has ended, after it was saved.

    Args:
        message: What was saved, and how to continue.
        signum: The signal.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class PublishError(RuntimeError):
    """The Hub did not take it; the message says why and how to go on."""
