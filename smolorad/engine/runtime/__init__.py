"""Device, number formats, buffers, folders of the cache, errors of libraries."""
