"""Calls over gRPC, once for asyncio and once for threads: the one place in which the two clients differ."""
