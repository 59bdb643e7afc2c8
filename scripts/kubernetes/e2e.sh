#!/bin/bash
# Runs the Kubernetes storage conformance suites (External.Storage) on the driver of a testdriver file.
# usage: e2e.sh DRIVER.yaml FOCUS [SKIP]    FOCUS and SKIP are regular expressions over the specs' full names
# PROCS=N runs N specs at a time. FSTYPE=xfs makes that the default file system of the driver's StorageClass. Results: $WORK/results/<name>/junit*.xml and log.txt
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
DRIVER=$(realpath "$1")
FOCUS=$2
SKIP=${3:-'\[Disruptive\]|\[Feature:Windows'}
OUT=$WORK/results/${NAME:-run}
rm -rf "$OUT"
mkdir -p "$OUT"
if [ "${FSTYPE:-}" ]; then
  cp "$DRIVER" "$OUT/driver.yaml"
  sed "s|^parameters: {|&csi.storage.k8s.io/fstype: $FSTYPE, |" "$(dirname "$DRIVER")/storageclass.yaml" >"$OUT/storageclass.yaml"
  DRIVER=$OUT/driver.yaml
fi
T=$(now)
# One node: no test may wait for a second. The image tags are the upstream ones; images.py made them.
node "$BIN/ginkgo" --procs="${PROCS:-4}" --no-color --timeout="${LIMIT:-40m}" --silence-skips --focus="$FOCUS" --skip="$SKIP" ${DRY:+--dry-run} "$BIN/e2e.test" -- \
  -kubeconfig "$KUBECONFIG" -provider skeleton -num-nodes 1 -storage.testdriver "$DRIVER" -repo-root "$(dirname "$DRIVER")" -report-dir "$OUT" -kubectl-path "$SHARED/bin/kubectl" \
  -delete-namespace=true -dump-logs-on-failure=false -v=2 >"$OUT/log.txt" 2>&1 || true
grep -E '^(Ran |FAIL!|SUCCESS!)' "$OUT/log.txt" || tail -n 5 "$OUT/log.txt"
grep -E '^ *\[FAIL\]' "$OUT/log.txt" | sort -u || true
echo "e2e took $(since "$T") s; log in $OUT/log.txt"
