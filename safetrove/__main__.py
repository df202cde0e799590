"""`safetrove` and `python -m safetrove`: set the environment, check the rooms, run a command, map errors to exit codes."""

import errno
import os
import sys

# What no room foresees, since it may happen at any file.
_RIGHTS, _SPACE = "get the right to write there, or give another folder", "free space, or raise the quota"
_OTHER = "give another folder"
_NOT_WRITABLE = {
    errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS, errno.EROFS: _RIGHTS, errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE,
    errno.ENOTDIR: _OTHER, errno.EEXIST: _OTHER,
}  # fmt: skip

# before any library is imported: no variable values in tracebacks (they would hold document text), no telemetry
os.environ.setdefault("LOGURU_DIAGNOSE", "NO")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def main() -> None:
    """Exit codes: 0 all that was asked for is done; 1 something is not; 2 wrong recipe or arguments; 130 interrupted."""
    from safetrove.rooms import check_rooms

    shadowed = check_rooms()
    if shadowed:
        print(f"error: {shadowed}", file=sys.stderr)
        raise SystemExit(2)
    from safetrove.cli import app

    try:
        app()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        code = getattr(error, "exit_code", None)  # the rooms' error trees carry it
        if isinstance(code, int):
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(code) from None
        if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
            print(f"error: {error}; {_NOT_WRITABLE[error.errno]}", file=sys.stderr)
            raise SystemExit(1) from None
        raise


if __name__ == "__main__":
    main()
