"""Peak speed of devices, for model FLOPs utilisation."""

from typing import Final

# Dense bf16 TFLOP/s without sparsity, from NVIDIA's data sheets; the first name that the device's name contains counts.
_PEAK_TFLOPS: Final = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
}


def peak_tflops(device_name: str) -> float | None:
    """Peak of the device with this name, or None where it is not known, as for every processor."""
    return next((peak for name, peak in _PEAK_TFLOPS.items() if name in device_name), None)
