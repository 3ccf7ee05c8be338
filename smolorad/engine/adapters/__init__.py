"""LoRA adapters: the registry, their folders, PEFT."""
