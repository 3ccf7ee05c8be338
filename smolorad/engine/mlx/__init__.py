"""Model folders that MLX has quantised: each tensor is dequantised while it is read."""
