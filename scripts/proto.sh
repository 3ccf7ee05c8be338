#!/usr/bin/env bash
# Generates the committed code from proto/ with an isolated, pinned generator.
# 1.81.1 is the newest grpcio-tools whose output also runs on protobuf 6; the environment is apart from .venv because
# grpcio-tools wants protobuf < 7 while the daemon's health service wants 7.
#
# usage: scripts/proto.sh [OUTPUT_ROOT]     (default: the repository; tests give another and compare)
#        scripts/proto.sh --env-only        (makes the generator's environment and nothing else)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
env=${SMOLORA_PROTO_ENV:-.venv-proto}
if [ ! -e "$env/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$env"
  "$env/bin/pip" install --quiet grpcio-tools==1.81.1 mypy-protobuf==5.1.0
  touch "$env/.ready"
fi
[ "$out" != --env-only ] || exit 0
mkdir -p "$out/clients/python"
PATH="$PWD/$env/bin:$env/bin:$PATH" "$env/bin/python" -m grpc_tools.protoc -I proto \
  --python_out="$out/clients/python" --pyi_out="$out/clients/python" \
  --grpc_python_out="$out/clients/python" --mypy_grpc_out="quiet:$out/clients/python" proto/smolora/v1/*.proto
"$env/bin/python" -m grpc_tools.protoc -I proto --python_out="$out" --pyi_out="$out" proto/smolorad/link/v1/*.proto
# A file without a service still gets an (empty) _grpc pair: leave those out.
for f in common errors settings; do rm -f "$out/clients/python/smolora/v1/${f}_pb2_grpc.py" "$out/clients/python/smolora/v1/${f}_pb2_grpc.pyi"; done
# The settings' names and comments, for the command line's flags and the client's keywords.
"$env/bin/python" scripts/fields.py "$out"
