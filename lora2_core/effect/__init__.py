"""What a direction of an adapter does to the loss, on one scale for all layers [ours]."""
