"""The one error class of the domain."""


class LoRA2Error(ValueError):
    """Something the user can mend. The message names the value and the way out."""
