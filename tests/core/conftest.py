"""One thread: the tensors here are small, and idle OpenMP threads cost seconds on shared cores."""

import torch

torch.set_num_threads(1)
