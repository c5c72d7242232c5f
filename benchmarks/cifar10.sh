#!/usr/bin/env bash
# The paper's data set on one GPU, a slice of time at once.
#
#     benchmarks/cifar10.sh [SECONDS [FILE ...]]
#
# Trains the runs of configs/sweeps/FILE.toml (all of cifar10_*.toml where none is named) on
# runs/cifar10.npz (train_images, train_labels, test_images, test_labels), three files side
# by side on the one GPU, and stops at the next checkpoints after SECONDS (540 where none is
# said). The same command again goes on from there. When all are finished, or the time is
# up, the finished ones are reported in runs/cifar10/report.md.
set -u
cd "$(dirname "$0")/.."
seconds=${1:-540}
python=${PYTHON:-python3}
[ -f runs/cifar10.npz ] || {
    echo "benchmarks/cifar10.sh: there is no runs/cifar10.npz; put CIFAR-10 there" >&2
    exit 2
}
[ $# -eq 0 ] || shift
if [ $# -eq 0 ]; then
    rows=(configs/sweeps/cifar10_*.toml)
    rows=("${rows[@]##*/}")
    set -- "${rows[@]%.toml}"
fi
# Each process takes its share of the GPU's memory when it starts, and no more.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.28}
mkdir -p runs/cifar10
before=$SECONDS started=$(date +%s)
export python seconds started
# One file begins when another has ended, and has what is left of the time.
printf '%s\n' "$@" | xargs -P 3 -I NAME bash -c '
    left=$((seconds - ($(date +%s) - started)))
    [ "$left" -gt 0 ] || exit 0
    timeout --signal=TERM "$left" "$python" -m jsplit sweep "configs/sweeps/NAME.toml" \
        --folder "runs/cifar10/NAME" >"runs/cifar10/NAME.log" 2>&1 || true'
echo "$((SECONDS - before)) seconds of training on $(nvidia-smi --query-gpu=name \
    --format=csv,noheader 2>/dev/null || echo 'no NVIDIA GPU')"
tail -n 4 runs/cifar10/*.log
"$python" -m jsplit report runs/cifar10 --partial
