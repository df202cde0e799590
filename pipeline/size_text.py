"""Numbers of bytes for people."""


def size_text(number: float) -> str:
    """In powers of 1000, as disks and the Hub count: "999 bytes", "1.5 kB", up to TB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
