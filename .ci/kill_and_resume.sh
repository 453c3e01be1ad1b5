#!/usr/bin/env bash
# The real program: killed by SIGKILL, stopped by SIGTERM, restarted by the loop
# that the README shows. Its history must be that of a run left alone.
#
# Usage: .ci/kill_and_resume.sh FOLDER
set -euo pipefail
folder=$1
mkdir -p "$folder"
arguments=(
  --config=quick --mode=train --train_examples=512 --validation_examples=64
  --test_examples=16 --num_layers=1 --dropout=0.1 --train_steps=200
  --warmup_steps=10 --eval_every=20 --steps_per_loop=10
)
train() {
  luna-lra "${arguments[@]}" --model_dir="$1" >> "$1.log" 2>&1
}
# Waits until a run has a checkpoint of this step, then sends it a signal.
interrupt() {
  local signal=$1 step=$2 child=$3
  until [ -e "$folder/killed/checkpoints/step-$step/checkpoint.json" ]; do
    kill -0 "$child" || { cat "$folder/killed.log"; exit 1; }
    sleep 0.05
  done
  kill "-$signal" "$child"
}
columns() {  # all but times and speeds
  python - "$1/history.csv" <<'PYTHON'
import csv, sys
for row in csv.DictReader(open(sys.argv[1])):
    print([row[name] for name in sorted(row) if "second" not in name])
PYTHON
}
train "$folder/whole"
for attempt in "KILL 00000040" "TERM 00000120"; do
  read -r signal step <<< "$attempt"
  luna-lra "${arguments[@]}" --model_dir="$folder/killed" \
    >> "$folder/killed.log" 2>&1 &
  child=$!
  interrupt "$signal" "$step" "$child"
  status=0
  wait "$child" || status=$?
  echo "$signal at step $step: exit status $status"
done
[ "$status" = 75 ] || { echo "SIGTERM gave $status, not 75"; exit 1; }
until train "$folder/killed"; do
  status=$?
  [ "$status" = 75 ] || [ "$status" = 76 ] || exit "$status"
done
diff <(columns "$folder/whole") <(columns "$folder/killed")
echo "the histories are the same"
