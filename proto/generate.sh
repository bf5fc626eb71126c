#!/usr/bin/env bash
# Generates the Python stubs of every .proto beside this script.
#
#   proto/generate.sh PYTHON OUT
#
# PYTHON is an interpreter with proto/requirements.txt installed, OUT the folder to write into:
# `proto` to replace the checked-in stubs, another one to compare with them.
set -euo pipefail

python=$(realpath --no-symlinks "$1")
out=$(realpath "$2")
cd "$(dirname "$0")"

mapfile -t protos < <(find headstream -name '*.proto' | LC_ALL=C sort)
mapfile -t services < <(grep -lE '^service ' "${protos[@]}" || true)

# protoc looks its plugins (protoc-gen-mypy) up on the path.
export PATH="$(dirname "$python"):$PATH"

find "$out/headstream" -name '*_pb2*' -delete 2>/dev/null || true
"$python" -m grpc_tools.protoc --proto_path=. --python_out="$out" --mypy_out="quiet:$out" "${protos[@]}"
# Only files that define a service get a _pb2_grpc module.
if ((${#services[@]})); then
    "$python" -m grpc_tools.protoc --proto_path=. \
        --grpc_python_out="$out" --mypy_grpc_out="quiet:$out" "${services[@]}"
fi
