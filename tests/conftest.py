"""Settings of the whole test run."""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
torch.set_num_threads(1)  # the networks are tiny, and a process that forks must not have started a thread pool


def pytest_collection_finish() -> None:
    """The garbage collector passes over a million objects of the collection, which stay as long as the process."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _interrupt_handler() -> Iterator[None]:
    """Lightning ignores SIGINT for good once a KeyboardInterrupt ended a run; the next test gets it back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _global_hooks() -> Iterator[None]:
    """A test that fails over a hook of the whole process fails alone."""
    yield
    torch.nn.modules.module._global_forward_hooks.clear()
    torch.nn.modules.module._global_forward_pre_hooks.clear()


@pytest.fixture(autouse=True)
def _compiled_nothing() -> None:
    """What an earlier test had compiled is not taken for this test's."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None:
        dynamo.counters.clear()
