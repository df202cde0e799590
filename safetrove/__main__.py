"""`safetrove` and `python -m safetrove`: set the environment, check the rooms, run a command, map errors to exit codes."""

import os
import sys

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
        if not isinstance(code, int):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(code) from None


if __name__ == "__main__":
    main()
