#!/bin/bash
# Joins ebbtide to the node that up.sh made: its AWS side and its agent inside the node, the CSI drivers whose programs
# EBBTIDE_TEST_EBS_DRIVER and EBBTIDE_TEST_EFS_DRIVER name, the unmodified sidecars, and the drivers' registration with the kubelet.
# Not the built-in drivers: a kubelet calls with the path of the socket as authority (%2Fvar%2F...), which their HTTP/2 library refuses.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
T0=$(now)
EBS=ebs.csi.aws.com EFS=efs.csi.aws.com
PLUGINS=/var/lib/kubelet/plugins
export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_ENDPOINT_URL=$ENDPOINT
export EBBTIDE_DATA_DIR=$RUN/ebbtide EBBTIDE_LOG=${EBBTIDE_LOG:-info}
[ ! -e "$RUN/ebbtide.pid" ] || { echo "join.sh: joined already: run down.sh and up.sh first" >&2; exit 1; }
start ebbtide "$EBBTIDE" up --data-dir "$RUN/ebbtide" --world "$HERE/world.yaml" --external-nodes
await 20 "the AWS endpoint" node curl -fsS "$ENDPOINT/_ebbtide/health"
node mkdir -p $PLUGINS/$EBS $PLUGINS/$EFS "$RUN/csi"
start agent "$EBBTIDE" node --agent-only --endpoint "$ENDPOINT" --node-name "$NODE" --kubeconfig "$KUBECONFIG" \
  --metadata 169.254.169.254:80
await 20 "the metadata service" node curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token
DRIVERS=()
EBS_CONTROLLER=$RUN/csi/ebs.sock EFS_CONTROLLER=$PLUGINS/$EFS/csi.sock
if [ "${EBBTIDE_TEST_EBS_DRIVER:-}" ]; then
  DRIVERS+=($EBS)
  start ebs-controller "$EBBTIDE_TEST_EBS_DRIVER" controller --endpoint "unix://$EBS_CONTROLLER" --batching=true --v=5
  start ebs-node env CSI_NODE_NAME="$NODE" "$EBBTIDE_TEST_EBS_DRIVER" node --endpoint "unix://$PLUGINS/$EBS/csi.sock" --metadata-sources=imds --v=5
  await 20 "the EBS driver" node test -S "$EBS_CONTROLLER"
fi
if [ "${EBBTIDE_TEST_EFS_DRIVER:-}" ]; then
  DRIVERS+=($EFS)
  mkdir -p "$RUN/efs-static"
  start efs "$EBBTIDE_TEST_EFS_DRIVER" --endpoint "unix://$EFS_CONTROLLER" --efs-utils-static-files-path="$RUN/efs-static" --v=5
fi
[ ${#DRIVERS[@]} -gt 0 ] || { echo "join.sh: no driver binary: set EBBTIDE_TEST_EBS_DRIVER, EBBTIDE_TEST_EFS_DRIVER or both" >&2; exit 1; }
for driver in "${DRIVERS[@]}"; do
  await 20 "the node service of $driver" node test -S "$PLUGINS/$driver/csi.sock"
  start "registrar-$driver" "$BIN/csireg" "$driver" "$PLUGINS/$driver/csi.sock" "/var/lib/kubelet/plugins_registry/$driver-reg.sock"
done
for kind in volumesnapshotclasses volumesnapshotcontents volumesnapshots; do
  node kubectl apply -f "$SHARED/snapshot-crds/snapshot.storage.k8s.io_$kind.yaml" >/dev/null
done
node kubectl apply -f - <"$HERE/drivers.yaml" >/dev/null
K="--kubeconfig=$KUBECONFIG"
A="--csi-address=$EBS_CONTROLLER"
# As the drivers' manifests start them, but for the elections.
if [ "${EBBTIDE_TEST_EBS_DRIVER:-}" ]; then
  start csi-provisioner csi-provisioner "$K" "$A" --v=5 --timeout=60s --feature-gates=Topology=true --extra-create-metadata --default-fstype=ext4 --worker-threads=100 --retry-interval-max=30m --kube-api-qps=20 --kube-api-burst=100
  start csi-attacher csi-attacher "$K" "$A" --v=5 --timeout=6m --worker-threads=100 --retry-interval-max=5m --kube-api-qps=20 --kube-api-burst=100
  start csi-resizer csi-resizer "$K" "$A" --v=5 --timeout=60s --workers=100 --handle-volume-inuse-error=false --retry-interval-max=30m --kube-api-qps=20 --kube-api-burst=100
  start csi-snapshotter csi-snapshotter "$K" "$A" --v=5 --timeout=60s --extra-create-metadata --kube-api-qps=20 --kube-api-burst=100
  start snapshot-controller snapshot-controller "$K" --v=5 --leader-election=false
fi
[ -z "${EBBTIDE_TEST_EFS_DRIVER:-}" ] || start efs-provisioner csi-provisioner "$K" "--csi-address=$EFS_CONTROLLER" --v=5 --timeout=60s --extra-create-metadata --worker-threads=100
registered() { [ "$(node kubectl get csinode "$NODE" -o 'jsonpath={.spec.drivers[*].name}' | wc -w)" = ${#DRIVERS[@]} ]; }
await 30 "the kubelet's word that it knows ${DRIVERS[*]}" registered
node kubectl get csinode "$NODE" -o 'jsonpath={range .spec.drivers[*]}{.name} {.nodeID} {.allocatable} {.topologyKeys}{"\n"}{end}'
echo "ebbtide joined: $(since "$T0") s"
