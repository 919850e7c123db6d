"""What the vendors say their accelerators can do at most: bfloat16 FLOP/s and bytes/s of memory.

For model FLOPs and bandwidth utilisation (MFU, MBU). Dense figures: NVIDIA's sheets give twice as much, "with
sparsity". Not measured here. Invariant: an unknown device is `inf`, so that its utilisation shows as 0% instead of a
wrong guess.
"""

from __future__ import annotations

import logging
import math
import re
from typing import NamedTuple

__all__ = ["get_peak_bandwidth", "get_peak_flops"]

logger = logging.getLogger("nanodist")

T, G = 1e12, 1e9


class Peak(NamedTuple):
    """A row: each of `words` is in the device's name. `flops` per second, `bandwidth` in bytes per second."""

    words: str
    flops: float
    bandwidth: float


# The first row that fits counts: of one family the special before the general.
PEAKS = (
    # NVIDIA Blackwell: https://www.nvidia.com/en-us/data-center/gb200-nvl72/ (72 GPUs: 360 PFLOPS sparse, 576 TB/s)
    Peak("gb200", 2500 * T, 8.0 * T),
    Peak("grace blackwell", 2500 * T, 8.0 * T),
    # https://www.nvidia.com/en-us/data-center/gb300-nvl72/ (the same for bfloat16)
    Peak("gb300", 2500 * T, 8.0 * T),
    # https://www.nvidia.com/en-us/data-center/hgx/ (8 GPUs: 36 PFLOPS sparse)
    Peak("b300", 2250 * T, 8.0 * T),
    Peak("b200", 2250 * T, 8.0 * T),
    # https://resources.nvidia.com/en-us-blackwell-architecture (HGX B100, 8 GPUs: 28 PFLOPS sparse)
    Peak("b100", 1750 * T, 8.0 * T),
    # NVIDIA Hopper: https://www.nvidia.com/en-us/data-center/h200/
    Peak("h200 nvl", 835.5 * T, 4.8 * T),
    Peak("h200 pcie", 835.5 * T, 4.8 * T),
    Peak("h200", 989.5 * T, 4.8 * T),
    # https://www.nvidia.com/en-us/data-center/h100/
    Peak("h100 nvl", 835.5 * T, 3.9 * T),
    Peak("h100l", 835.5 * T, 3.9 * T),  # the H100 NVL, as a virtual GPU
    Peak("h100 pcie", 756.5 * T, 2.0 * T),
    Peak("h100", 989.5 * T, 3.35 * T),
    # The H100 of a market that gets a slower NVLink: no sheet of its own, the H100's figures.
    Peak("h800 pcie", 756.5 * T, 2.0 * T),
    Peak("h800", 989.5 * T, 3.35 * T),
    # https://www.nvidia.com/en-us/data-center/grace-hopper-superchip/ (HBM3 of the 480 GB board)
    Peak("gh200", 989.5 * T, 4.0 * T),
    # NVIDIA Ampere: https://www.nvidia.com/en-us/data-center/a100/
    Peak("a100 40gb", 312 * T, 1555 * G),
    Peak("a100 pcie", 312 * T, 1935 * G),
    Peak("a100", 312 * T, 2039 * G),
    Peak("a800 40gb", 312 * T, 1555 * G),  # the A100 with a slower NVLink
    Peak("a800 pcie", 312 * T, 1935 * G),
    Peak("a800", 312 * T, 2039 * G),
    # https://www.nvidia.com/en-us/data-center/a40/
    Peak("a40", 149.7 * T, 696 * G),
    # https://www.nvidia.com/en-us/data-center/products/a30-gpu/
    Peak("a30", 165 * T, 933 * G),
    # https://www.nvidia.com/en-us/data-center/products/a10-gpu/
    Peak("a10g", math.inf, math.inf),  # slower than the A10, and on no sheet of NVIDIA's
    Peak("a10", 125 * T, 600 * G),
    # NVIDIA Ada: https://www.nvidia.com/en-us/data-center/l40s/, https://www.nvidia.com/en-us/data-center/l40/
    Peak("l40s", 362 * T, 864 * G),
    Peak("l40 s", 362 * T, 864 * G),
    Peak("l40", 181 * T, 864 * G),
    # https://www.nvidia.com/en-us/data-center/l4/
    Peak("l4", 121 * T, 300 * G),
    # AMD CDNA: https://www.amd.com/en/products/accelerators/instinct/mi350/mi355x.html and mi350x.html
    Peak("mi355", 2516.6 * T, 8.0 * T),
    Peak("mi350", 2306.9 * T, 8.0 * T),
    # https://www.amd.com/en/products/accelerators/instinct/mi300/mi325x.html, mi300x.html and mi300a.html
    Peak("mi325", 1307.4 * T, 6.0 * T),
    Peak("mi300x", 1307.4 * T, 5.3 * T),
    Peak("mi300a", 980.6 * T, 5.3 * T),
    # https://www.amd.com/en/products/accelerators/instinct/mi200/mi250x.html and mi250.html give a board of two dies;
    # torch's device is one die, and so are these.
    Peak("mi250x", 191.5 * T, 1638.4 * G),
    Peak("mi250", 181.05 * T, 1638.4 * G),
    # https://www.amd.com/en/products/accelerators/instinct/mi200/mi210.html
    Peak("mi210", 181 * T, 1638.4 * G),
    # GeForce, with float32 accumulation:
    # https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf
    Peak("5090", 209.5 * T, 1792 * G),
    # https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf
    Peak("4090", 165.2 * T, 1008 * G),
    # https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf
    Peak("3090", 71 * T, 936 * G),
)


def get_peak_flops(device_name: str) -> float:
    """Dense bfloat16 FLOP/s of a device by its name (`torch.cuda.get_device_name()`); `inf` if it is unknown."""
    if _words("data center gpu max 1550") <= _words(device_name):
        return _ponte_vecchio_flops()
    return _peak(device_name, "FLOP/s", "MFU").flops


def get_peak_bandwidth(device_name: str) -> float:
    """Bytes per second of a device's memory by its name; `inf` if it is unknown."""
    if _words("data center gpu max 1550") <= _words(device_name):
        # https://www.intel.com/content/www/us/en/products/sku/232873 gives 3276.8 GB/s for two stacks, each a device.
        return 1638.4 * G
    return _peak(device_name, "memory bandwidth", "MBU").bandwidth


def _peak(device_name: str, what: str, shown_as: str) -> Peak:
    for peak in PEAKS:
        if all(_names(word, device_name.lower()) for word in peak.words.split()):
            return peak
    logger.warning("the peak %s of %r is unknown: %s will show as 0%%", what, device_name, shown_as)
    return Peak(device_name, math.inf, math.inf)


def _names(word: str, name: str) -> bool:
    """Whether `word` is in the device's name; letters may follow a model's number, as in A100X and A100D-80C."""
    # Never further digits: "l4" must not find an L40, nor "a40" an RTX A4000.
    end = r"(?!\d)" if re.search(r"\d", word) else r"(?![a-z0-9])"
    return re.search(rf"(?<![a-z0-9]){word}{end}", name) is not None


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def _ponte_vecchio_flops() -> float:
    """512 bfloat16 operations per clock and compute unit at 1.3 GHz; the number of units differs by model.

    https://www.intel.com/content/www/us/en/docs/oneapi/optimization-guide-gpu/2025-0/intel-xe-gpu-architecture.html
    """
    import torch

    return 512 * float(torch.xpu.get_device_properties("xpu").max_compute_units) * 1.3e9
