"""The training loop, and what watches the network while it runs."""
