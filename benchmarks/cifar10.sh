#!/usr/bin/env bash
# The paper's data set on one GPU, a slice of time at once.
#
#     benchmarks/cifar10.sh [SECONDS [FILE ...]]
#
# Trains the runs of configs/sweeps/FILE.toml (all of cifar10_*.toml where none is named) on
# runs/cifar10.npz (train_images, train_labels, test_images, test_labels), three at once, and
# stops them after SECONDS (540 where none is said). The same command again goes on from the
# checkpoints. See benchmarks/slices.py, which needs little more than the library itself.
set -eu
case ${1:-} in -h | --help) exec sed -n '2,/^set/{/^set/!p}' "$0" ;; esac
cd "$(dirname "$0")/.."
seconds=${1:-540}
[ $# -eq 0 ] || shift
[ -f runs/cifar10.npz ] || {
    echo "benchmarks/cifar10.sh: there is no runs/cifar10.npz; put CIFAR-10 there" >&2
    exit 2
}
if [ $# -eq 0 ]; then
    files=(configs/sweeps/cifar10_*.toml)
else
    files=("${@/#/configs/sweeps/}")
    files=("${files[@]/%/.toml}")
fi
exec "${PYTHON:-python3}" -m benchmarks.slices "$seconds" "${files[@]}" --folder runs/cifar10
