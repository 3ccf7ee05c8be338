"""Makes a GGUF of another precision, in llama.cpp's environment: FROM TO FORMAT."""

from __future__ import annotations

import argparse
import sys

FORMATS = {
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
}


def main() -> None:
    """Writes the file; ends with status 1 where llama.cpp refuses."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("to")
    parser.add_argument("format", choices=FORMATS)
    given = parser.parse_args()
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, FORMATS[given.format])
    sys.exit(bool(llama_cpp.llama_model_quantize(given.source.encode(), given.to.encode(), settings)))


if __name__ == "__main__":
    main()
