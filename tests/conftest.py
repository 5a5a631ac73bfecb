import gc

import cv2
import numpy as np
import pytest

# As in every worker. Some tests fork: a child cannot stop threads that only its parent has.
cv2.setNumThreads(1)


@pytest.fixture
def rng():
    """The same numbers in every run."""
    return np.random.default_rng(20)


def pytest_collection_finish():
    # Some 9000 tests are objects that stay: without them each full collection is short.
    gc.collect()
    gc.freeze()
