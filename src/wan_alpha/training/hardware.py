"""GPUs by name: what `plan=true` and the MFU of a run compare with.

Peaks are the makers' for dense bf16 matrix products with float32 sums, from their data sheets and white papers; where a
sheet gives the figure with sparsity, half of it.  Memory is what nvidia-smi shows.  Links are one direction of what the
GPUs of one machine reach each other by: NVLink or, without it, PCI Express x16.  Peaks and links were compared with
copies of these documents (`SEEN`), memory only with the capacity that they state.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """One kind.

    Attributes:
        title: for people.
        reported: part of the name that the driver gives, by which the kind is known again.
        memory_gib: GiB.
        tflops: peak, 10^12 per second.
        link_gb: to the other GPUs of the machine, 10^9 bytes per second.
        source: where the figures stand.
    """

    title: str
    reported: str
    memory_gib: float
    tflops: float
    link_gb: float
    source: str


SEEN = {
    "h100": "https://glennklockwood.com/garden/processors/h100",
    "h100-pcie": "https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html",  # 1,513 with sparsity
    "h200": "https://glennklockwood.com/garden/processors/h100",  # the same processor with another memory
    "b200": "https://glennklockwood.com/garden/processors/B200",  # as HGX at 1,000 W
    "a100-80": "https://glennklockwood.com/garden/processors/A100",
    "a100-40": "https://glennklockwood.com/garden/processors/A100",
    "l40s": "https://www.mullet.se/product.html?product_id=355414",
    "5090": "https://www.spheron.network/blog/nvidia-rtx-5090-specs/",  # 838 with float16 sums and sparsity: a quarter
    "4090": "https://gigagpu.com/?p=34220",
    # 82 multiprocessors of 4 cores of 64 products each at 1.695 GHz.
    "3090": "https://gist.github.com/getianao/33fb5306ba896193c7ae59ec64794283",
}
"""Where the figures of a kind were read."""
GPUS = {
    "b200": GPU("NVIDIA B200 SXM", "B200", 179.1, 2250, 900, "HGX B200 data sheet"),
    "h200": GPU("NVIDIA H200 SXM", "H200", 140.4, 989.4, 450, "H200 data sheet"),
    "h100": GPU("NVIDIA H100 SXM", "H100", 79.6, 989.4, 450, "H100 data sheet"),
    "h100-pcie": GPU("NVIDIA H100 PCIe", "H100 PCIe", 79.6, 756.5, 64, "H100 data sheet"),
    "a100-80": GPU("NVIDIA A100 SXM 80 GB", "A100-SXM4-80GB", 80.0, 312, 300, "A100 data sheet"),
    "a100-40": GPU("NVIDIA A100 SXM 40 GB", "A100-SXM4-40GB", 40.0, 312, 300, "A100 data sheet"),
    "l40s": GPU("NVIDIA L40S", "L40S", 45.0, 362, 32, "L40S data sheet"),
    "5090": GPU("NVIDIA GeForce RTX 5090", "RTX 5090", 31.8, 209.5, 64, "RTX Blackwell white paper, appendix A"),
    "4090": GPU("NVIDIA GeForce RTX 4090", "RTX 4090", 24.0, 165.2, 32, "Ada white paper, appendix A"),
    "3090": GPU("NVIDIA GeForce RTX 3090", "RTX 3090", 24.0, 71, 32, "GA102 white paper, table 9"),
}


def known_gpu(reported: str) -> GPU | None:
    """The kind whose name the driver reports (the longest match), or None."""
    found = [gpu for gpu in GPUS.values() if gpu.reported in reported]
    return max(found, key=lambda gpu: len(gpu.reported)) if found else None
