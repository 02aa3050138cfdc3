"""One adapted layer and its algebra."""
