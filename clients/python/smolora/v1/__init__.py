"""Generated from proto/smolora/v1 by `make proto`. DO NOT EDIT."""
