#!/bin/sh
# Crash tests of the log alone, each with the control that has to lose.
#   tests/faults/log.sh [CYCLES]      builds the example it needs; the power cuts need root
# Exit: 0 as expected, 1 not, 2 could not run.
set -eu
cd "$(dirname "$0")/../.."
cycles=${1:-20}
cargo build --quiet -p threadline-store --example log_writer
writer=${CARGO_TARGET_DIR:-target}/debug/examples/log_writer

crash() {
    fault=$1 control=$2
    shift 2
    echo "== $fault, control: ${control:-none}"
    env="env ${control:+THREADLINE_DURABILITY_CONTROL=$control}"
    python3 tests/faults/crash.py --fault "$fault" --writer "$env $writer write {dir}" \
        --check "$env $writer check {dir} {acks}" "$@"
}

crash kill '' --cycles "$cycles" --rounds 5
crash kill ack-before-write --cycles 5 --expect-loss
crash power-cut '' --cycles "$cycles" --rounds 4
crash power-cut no-sync --cycles 5 --expect-loss
