"""One thread: the tensors here are small, and idle OpenMP threads cost seconds on shared cores."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers():
    """Numbers drawn without a generator of their own are the same in whatever order tests run."""
    torch.manual_seed(0)
