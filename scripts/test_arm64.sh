#!/usr/bin/env bash
# Tests the kernels for 64-bit Arm on a machine of another kind: cross-builds the library and runs it in
# an emulator against the reference.
#
#   scripts/test_arm64.sh [--build FOLDER] [--programs N] [--sweep]
#
# --build     folder of the build, default build/arm64
# --programs  random programs for each processor, default 1000; as many damaged ones
# --sweep     also runs tests/kernels/test_kernels.py in the emulator, with a Python for Arm that is
#             downloaded into the build folder; needs apt-get, pip and Python 3.11
#
# Needs cmake and, on Debian and Ubuntu, the packages g++-aarch64-linux-gnu and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/arm64 programs=1000 sweep=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --programs) programs=$2; shift 2 ;;
    --sweep) sweep=1; shift ;;
    *) echo "unknown option $1; the options are --build, --programs and --sweep" >&2; exit 2 ;;
  esac
done

for tool in cmake aarch64-linux-gnu-g++ qemu-aarch64; do
  if ! command -v "$tool" >/dev/null; then
    echo "$tool is missing; on Debian: apt-get install cmake g++-aarch64-linux-gnu qemu-user" >&2
    exit 3
  fi
done
cmake -S . -B "$build" -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64-linux-gnu.cmake" -DFGGP_HARNESS=ON
cmake --build "$build" --parallel 2

# The harness names the instruction sets that it compared, so a processor that lost one is noticed.
while read -r processor expected; do
  printf '%s: ' "$processor"
  qemu-aarch64 -cpu "$processor" -L /usr/aarch64-linux-gnu \
    "$build/fggp_harness" "$programs" "$programs" | tee "$build/$processor.log"
  grep -q "^$expected agree on $programs programs" "$build/$processor.log" ||
    { echo "$processor should have compared: $expected" >&2; exit 1; }
done <<'PROCESSORS'
max neon_i8mm neon portable
neoverse-n1 neon portable
cortex-a53 neon portable
PROCESSORS

[ -n "$sweep" ] || exit 0

# Debian's Python for Arm and the wheels that the tests import, without installing either.
root=$(realpath "$build")/root site=$(realpath "$build")/site
if [ ! -x "$root/usr/bin/python3.11" ]; then
  apt=$(realpath "$build")/apt
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  touch "$apt/status"
  options=(-o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt"
    -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User="$(id -un)")
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install --yes --no-install-recommends --download-only python3.11 libstdc++6
  for package in "$apt"/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
fi
if [ ! -d "$site" ]; then
  python3 -m pip install --quiet --target "$site" --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux2014_aarch64 numpy onnx pytest pytest-timeout
fi
FGGP_KERNELS="$(realpath "$build")/libfggp_kernels.so" PYTHONPATH="$site:$PWD" PYTHONDONTWRITEBYTECODE=1 \
  qemu-aarch64 -cpu max -L "$root" "$root/usr/bin/python3.11" -m pytest --quiet --noconftest \
  -p no:cacheprovider tests/kernels/test_kernels.py
