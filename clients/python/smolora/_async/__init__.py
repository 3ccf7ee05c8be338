"""The asyncio client: written by hand."""
