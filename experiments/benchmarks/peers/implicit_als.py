"""Seconds of an iteration of alternating least squares in implicit, on Gowalla.

Needs implicit 0.7 and SciPy alone; nothing of jaxrec is imported. Set OPENBLAS_NUM_THREADS=1, as implicit
asks.

Run (in an environment of its own):

    python experiments/benchmarks/peers/implicit_als.py --data gowalla/train.npz --output peer.json

and give the file to `python -m experiments.speed --only baselines --baseline peer.json`. Our block solver is
compared with its conjugate gradients.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="npz of a matrix in rows: indptr, indices")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    with np.load(options.data) as archive:
        indptr, indices = archive["indptr"], archive["indices"]
    users = scipy.sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr))
    found = {}
    for dim in (64, 128):
        for use_cg in (False, True):
            seconds: list[float] = []

            def keep(_: int, elapsed: float, *rest: Any, seconds: list[float] = seconds) -> None:
                seconds.append(elapsed)

            model = AlternatingLeastSquares(
                factors=dim,
                iterations=options.repeats + 1,
                use_cg=use_cg,
                num_threads=options.threads,
                random_state=0,
            )
            model.fit_callback = keep
            model.fit(users, show_progress=False)
            median = float(np.median(seconds[1:]))  # the first is a warm-up
            print(f"{dim}, {'conjugate gradients' if use_cg else 'exact'}: {median:.3f} s")
            names = ("_blocks", "_gradients") if use_cg else ("",)
            found |= {f"baselines/ials_{dim}{name}": median for name in names}
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
