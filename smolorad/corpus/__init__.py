"""Datasets: plain functions over rows, run in a one-shot child process."""
