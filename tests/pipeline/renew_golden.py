"""Write golden.json anew, after a stage's output changed on purpose and its `version` was raised.

Run it from the root of the checkout: python -m tests.pipeline.renew_golden
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.pipeline.golden import GOLDEN, golden_values


def main() -> int:
    """1, and nothing is written, where a stage's output changed while its version stayed."""
    old = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        new = golden_values(Path(folder))
    same_version = [
        name for name in new if name in old and old[name] != new[name] and old[name]["version"] == new[name]["version"]
    ]
    if same_version:
        print(f"output changed, version did not: {', '.join(same_version)}; raise `version` first", file=sys.stderr)
        return 1
    GOLDEN.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    print(f"{len(new)} values in {GOLDEN.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
