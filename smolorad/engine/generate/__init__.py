"""One generation: the request, its sequence, sampling, the prefix cache and prompt lookup."""
