"""A served model: what a request may say, the batches of waiting requests, the HTTP routes, and Ray Serve under them."""
