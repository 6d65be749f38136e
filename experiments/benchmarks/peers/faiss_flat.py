"""Seconds of faiss's flat index on the vectors of `experiments/benchmarks/index.py`.

Needs faiss-cpu and NumPy alone; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/faiss_flat.py --threads 2 --output peer.json

and give the file to `python -m experiments.speed --only index --baseline peer.json`.
"""

from __future__ import annotations

import argparse
import json
import time

import faiss
import numpy as np

NUM_ITEMS, DIM, NUM_QUERIES, K = 1_000_000, 64, 1000, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    items = rng.standard_normal((NUM_ITEMS, DIM), dtype=np.float32)
    queries = rng.standard_normal((NUM_QUERIES, DIM), dtype=np.float32)
    index = faiss.IndexFlatIP(DIM)
    index.add(items)
    seconds = []
    for _ in range(options.repeats + 1):  # the first is a warm-up
        start = time.perf_counter()
        index.search(queries, K)
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds[1:]))
    print(f"faiss {faiss.__version__}, {options.threads} threads: {median:.2f} s, all: {seconds[1:]}")
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({"index/exact_1e6": median}, file)


if __name__ == "__main__":
    main()
