"""Known holes in the packages of an environment, by pip-audit: exit code 1 where there is one. `make audit`.

Says how many packages could be looked up: an index without advisories, or packages that it does not have, make it say little.
"""

import json
import subprocess
import sys


def main() -> int:
    """Asks over the network; prints one line a hole and one line of counts."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--skip-editable", "--format", "json"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    try:
        packages = json.loads(found.stdout)["dependencies"]
    except (ValueError, KeyError):
        print("pip-audit gave no report; its message is above", file=sys.stderr)
        return 1
    holes = [(package, hole) for package in packages for hole in package.get("vulns", ())]
    for package, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {hole['id']}, mended in {fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    print(f"{len(packages) - len(skipped)} of {len(packages)} packages were looked up, {len(holes)} holes found")
    if skipped:
        print(f"not looked up (the index has no advisories for them): {', '.join(skipped)}")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
