#!/usr/bin/env bash
# The paper's data set on one GPU, a slice of time at once.
#
#     benchmarks/cifar10.sh [SECONDS]
#
# Trains the runs of configs/sweeps/cifar10_*.toml on runs/cifar10.npz (train_images,
# train_labels, test_images, test_labels), the files side by side on the one GPU, and
# stops all of them at their next checkpoint after SECONDS (540 where none is said). The
# same command again goes on from there. When all are finished, or the time is up, the
# finished ones are reported in runs/cifar10/report.md.
set -u
cd "$(dirname "$0")/.."
seconds=${1:-540}
python=${PYTHON:-python3}
[ -f runs/cifar10.npz ] || {
    echo "benchmarks/cifar10.sh: there is no runs/cifar10.npz; put CIFAR-10 there" >&2
    exit 2
}
rows=(configs/sweeps/cifar10_*.toml)
# Each process takes its share of the GPU's memory when it starts, and no more.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.28}
mkdir -p runs/cifar10
before=$SECONDS
for row in "${rows[@]}"; do
    name=$(basename "$row" .toml)
    timeout --signal=TERM "$seconds" "$python" -m jsplit sweep "$row" \
        --folder "runs/cifar10/$name" >"runs/cifar10/$name.log" 2>&1 &
done
wait
echo "$((SECONDS - before)) seconds of training on $(nvidia-smi --query-gpu=name \
    --format=csv,noheader 2>/dev/null || echo 'no NVIDIA GPU')"
tail -n 4 runs/cifar10/*.log
