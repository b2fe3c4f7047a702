"""The app with a task that tells about the process it runs in."""

import ctypes

import torch

from workers.app import app

__all__ = ["app"]

PR_GET_PDEATHSIG = 2
"""From <linux/prctl.h>."""


@app.task(name="tests.tell")  # type: ignore[untyped-decorator]
def tell() -> dict[str, int]:
    dies_by = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(dies_by))
    return {"torch_threads": torch.get_num_threads(), "dies_with_parent_by": dies_by.value}
