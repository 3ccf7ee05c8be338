"""Compares what a device computes with what the CPU computes, before the device is trusted."""
