"""How long a run takes to find its place in the order of bucketed batches, far into training on a large set.

python -m benchmarks.buckets [--clips 1000000] [--batch 1234567]
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np

from wan_alpha.data.buckets import BucketOrder
from wan_alpha.data.order import SampleOrder

RESULT = Path(__file__).parent / "results" / "buckets.json"
BUCKETS, GLOBAL_BATCH, AFTER = 8, 64, 200


def main() -> None:
    """Measure, write the result and show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1_234_567, help="number of the batch where the run continues")
    args = parser.parse_args()
    labels = np.random.default_rng(0).integers(BUCKETS, size=args.clips)
    start = time.process_time()
    batches = BucketOrder(SampleOrder([args.clips], 0), labels, GLOBAL_BATCH).batches(args.batch)
    next(batches)
    found = time.process_time()
    for _ in islice(batches, AFTER):
        pass
    result = {
        "command": f"python -m benchmarks.buckets --clips {args.clips} --batch {args.batch}",
        "buckets": BUCKETS,
        "global_batch": GLOBAL_BATCH,
        "cpu_seconds_to_first_batch": round(found - start, 2),
        "cpu_milliseconds_per_batch": round(1000 * (time.process_time() - found) / AFTER, 2),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
