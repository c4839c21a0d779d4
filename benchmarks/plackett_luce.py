"""Time and memory of the Plackett-Luce loss and its gradient, for rankings of 64 and 1024 candidates.

python benchmarks/plackett_luce.py              on the processor, one thread
python benchmarks/plackett_luce.py --cuda       on a GPU

``ours`` is the component, with one cumulative sum over candidates; ``matrix`` takes a softmax of a K x K matrix of
all j >= k, as ListMLE is often written; ``floor`` is a single logsumexp over K, which no form can do without. All are
called with the same scores in float32. Memory is the peak beyond the scores, in multiples of their own size.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.types import Scores
from rlhf_lab_preference import PlackettLuce

SIZES: Final = ((64, 4096), (1024, 256))  # candidates, rows
ROUNDS: Final = 7


def ours(scores: Tensor) -> Tensor:
    return PlackettLuce()(Scores(scores)).values


def matrix(scores: Tensor) -> Tensor:
    k = scores.shape[-1]
    left = torch.ones(k, k, dtype=torch.bool, device=scores.device).triu()
    rivals = scores[..., None, :].expand(*scores.shape, k).masked_fill(~left, -torch.inf).logsumexp(-1)
    return (rivals - scores).sum(-1)


def floor(scores: Tensor) -> Tensor:
    return scores.logsumexp(-1)


FORMS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"ours": ours, "matrix": matrix, "floor": floor}


def step(form: str, scores: Tensor) -> None:
    """Compute value and gradient."""
    scores.grad = None
    FORMS[form](scores).sum().backward()  # type: ignore[no-untyped-call]
    if scores.is_cuda:
        torch.cuda.synchronize()


def measured(form: str, k: int, rows: int, cuda: bool) -> tuple[float, float]:
    """Return milliseconds of one step, and its peak memory in multiples of the scores'."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = "cuda" if cuda else "cpu"
    step(form, torch.randn(2, k, device=device, requires_grad=True))  # what is loaded once
    scores = torch.randn(rows, k, device=device, requires_grad=True)
    size = scores.numel() * scores.element_size()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(form, scores)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        before = _peak()
        step(form, scores)
        peak = _peak() - before
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        step(form, scores)
        seconds.append(time.perf_counter() - start)
    return 1e3 * median(seconds), peak / size


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="measure on a GPU")
    cuda = parser.parse_args().cuda
    print("   K   rows  form     milliseconds   peak memory / scores")
    for k, rows in SIZES:
        for form in FORMS:
            # a process of its own, whose peak is that of one form
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                milliseconds, memory = pool.submit(measured, form, k, rows, cuda).result()
            print(f"{k:>4}  {rows:>5}  {form:<7}  {milliseconds:>12.2f}   {memory:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
