"""One generation: the request, its sequence, sampling, logits processors, the prefix cache and prompt lookup."""
