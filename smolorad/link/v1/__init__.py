"""Generated from proto/smolorad/link/v1 by `make proto`. DO NOT EDIT."""
