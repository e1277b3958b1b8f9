"""A user's mistake ends a command with one line; only a bug of this program shows a stack trace."""

import difflib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake that the user can correct; the message names the file, key or value and says what to do instead."""


class TemporaryError(UserError):
    """A fault that may be gone at the next try, such as a dead host; the command ends with exit code 75.

    A launcher starts the same command again after this code, and not after 1, where a person must look.
    """


EXIT_TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h

_FULL = "the disk is full; free some space or choose another folder, then run again"
DISK_FAULTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,  # a limit of the file system, or of `ulimit -f`
    errno.EROFS: "cannot be written here (Read-only file system); choose another folder",
    errno.EACCES: "no permission here; choose another folder",
    errno.EPERM: "no permission here; choose another folder",
    errno.EIO: "the disk failed (Input/output error); check it, then run again",
}
"""What a command says about an error of the disk, by the error's number."""

# Of a disk behind a network. Some systems do not have all of them.
_OF_NETWORK_DISKS = ("ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EREMOTEIO", "ECONNRESET")
for _number in (getattr(errno, name) for name in _OF_NETWORK_DISKS if hasattr(errno, name)):
    DISK_FAULTS[_number] = f"the disk or its network failed ({os.strerror(_number)}); run the same command again"
TEMPORARY_FAULTS = {errno.EIO} | {getattr(errno, name) for name in _OF_NETWORK_DISKS if hasattr(errno, name)}
"""Those that may be gone at the next try."""


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    may_pass = isinstance(error, TemporaryError) or (isinstance(error, OSError) and error.errno in TEMPORARY_FAULTS)
    return EXIT_TEMPORARY if may_pass else 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: '; did you mean X?', or the list of known names."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(names)}"


def unknown_name(key: str, value: object, known: Iterable[str]) -> UserError:
    """The error for a name that `key` cannot take; it suggests the nearest of the `known` ones, or lists them."""
    return UserError(f"{key}={value!r} is not known{did_you_mean(str(value), known)}")


def run_command(main: Callable[[], None]) -> None:
    """Runs a command: exit code 0 when `main` returns, 1 and one line on stderr when it raises `UserError`, 130 on Ctrl-C.

    A `TemporaryError` and one of `TEMPORARY_FAULTS` end it with `EXIT_TEMPORARY`.

    The environment variable LOG_LEVEL sets what is logged on stderr: WARNING (the default), INFO or DEBUG.
    """
    try:
        _log_to_stderr(os.environ.get("LOG_LEVEL", "WARNING"))
        _check_words(sys.argv)
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; nothing half-written was left under a final name", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)  # the reader of a pipe (`| head`) has closed it: not an error
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        path = error.filename2 or error.filename or "the output"  # of a copy, the second is written
        print(f"error: {path}: {DISK_FAULTS[error.errno]}", file=sys.stderr)
        sys.exit(exit_code(error))


def _check_words(words: Iterable[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:  # Python turns bytes that are not UTF-8 into surrogates, which cannot be printed
            raise UserError(
                f"{os.fsencode(word)!r} is not UTF-8 text; set the terminal to UTF-8, or rename the file"
            ) from None


def _log_to_stderr(level: str) -> None:
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    if level.upper() not in levels:
        raise UserError(f"LOG_LEVEL={level}: not a level{did_you_mean(level.upper(), levels)}")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("tonsai_jax")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
