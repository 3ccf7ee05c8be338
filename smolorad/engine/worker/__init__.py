"""Commands that run in a process of their own: fetch, convert the starter, merge, check an adapter."""
