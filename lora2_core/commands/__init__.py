"""The commands of `python -m lora2_core`, one a module: add_arguments and run."""
