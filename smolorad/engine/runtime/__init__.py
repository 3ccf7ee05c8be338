"""Device, number formats, buffers, errors."""
