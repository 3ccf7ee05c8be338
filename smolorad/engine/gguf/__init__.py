"""GGUF files as models of transformers: header, config, tokenizer and weights. Nothing here needs torch."""
