#!/bin/bash
# Joins ebbtide to the node that up.sh made: its AWS side and its agent inside the node, the CSI drivers whose programs
# EBBTIDE_TEST_EBS_DRIVER and EBBTIDE_TEST_EFS_DRIVER name (without one the built-in driver), the unmodified sidecars, and
# `ebbtide csi-registrar`, which tells the kubelet of the drivers.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
T0=$(now)
EBS=ebs.csi.aws.com EFS=efs.csi.aws.com
PLUGINS=/var/lib/kubelet/plugins
# Of the built-in drivers.
OURS=$PLUGINS/ebbtide
export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_ENDPOINT_URL=$ENDPOINT
export EBBTIDE_DATA_DIR=$RUN/ebbtide EBBTIDE_LOG=${EBBTIDE_LOG:-info}
[ ! -e "$RUN/ebbtide.pid" ] || { echo "join.sh: joined already: run down.sh and up.sh first" >&2; exit 1; }
start ebbtide "$EBBTIDE" up --data-dir "$RUN/ebbtide" --world "$HERE/world.yaml" --external-nodes
await 60 "the AWS endpoint" node curl -fsS "$ENDPOINT/_ebbtide/health"
node mkdir -p $PLUGINS/$EBS $PLUGINS/$EFS $OURS "$RUN/csi"
start agent "$EBBTIDE" node --agent-only --endpoint "$ENDPOINT" --node-name "$NODE" --kubeconfig "$KUBECONFIG" \
  --metadata 169.254.169.254:80 --plugins $OURS
await 60 "the metadata service" node curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token
# The socket of a built-in driver's controller.
ours() { node sh -ec "ls /run/ebbtide/*/csi/$1.sock"; }
EBS_NODE=$PLUGINS/$EBS/csi.sock EFS_NODE=$PLUGINS/$EFS/csi.sock
if [ "${EBBTIDE_TEST_EBS_DRIVER:-}" ]; then
  EBS_CONTROLLER=$RUN/csi/ebs.sock
  start ebs-controller "$EBBTIDE_TEST_EBS_DRIVER" controller --endpoint "unix://$EBS_CONTROLLER" --batching=true --v=5
  start ebs-node env CSI_NODE_NAME="$NODE" "$EBBTIDE_TEST_EBS_DRIVER" node --endpoint "unix://$EBS_NODE" --metadata-sources=imds --v=5
else
  await 60 "the built-in EBS driver" ours ebs
  EBS_CONTROLLER=$(ours ebs) EBS_NODE=$OURS/$EBS/csi.sock
fi
if [ "${EBBTIDE_TEST_EFS_DRIVER:-}" ]; then
  EFS_CONTROLLER=$EFS_NODE
  mkdir -p "$RUN/efs-static"
  start efs "$EBBTIDE_TEST_EFS_DRIVER" --endpoint "unix://$EFS_CONTROLLER" --efs-utils-static-files-path="$RUN/efs-static" --v=5
else
  await 60 "the built-in EFS driver" ours efs
  EFS_CONTROLLER=$(ours efs) EFS_NODE=$OURS/$EFS/csi.sock
fi
await 60 "the EBS driver" node test -S "$EBS_CONTROLLER"
await 60 "the EFS driver" node test -S "$EFS_CONTROLLER"
# Each waits for its node service.
start registrar-ebs "$EBBTIDE" csi-registrar --csi-address "$EBS_NODE" --timeout 120
start registrar-efs "$EBBTIDE" csi-registrar --csi-address "$EFS_NODE" --timeout 120
for kind in volumesnapshotclasses volumesnapshotcontents volumesnapshots; do
  node kubectl apply -f "$SHARED/snapshot-crds/snapshot.storage.k8s.io_$kind.yaml" >/dev/null
done
node kubectl apply -f - <"$HERE/drivers.yaml" >/dev/null
K="--kubeconfig=$KUBECONFIG"
A="--csi-address=$EBS_CONTROLLER"
# As the drivers' manifests start them, but for the elections.
start csi-provisioner csi-provisioner "$K" "$A" --v=5 --timeout=60s --feature-gates=Topology=true --extra-create-metadata --default-fstype=ext4 --worker-threads=100 --retry-interval-max=30m --kube-api-qps=20 --kube-api-burst=100
start csi-attacher csi-attacher "$K" "$A" --v=5 --timeout=6m --worker-threads=100 --retry-interval-max=5m --kube-api-qps=20 --kube-api-burst=100
start csi-resizer csi-resizer "$K" "$A" --v=5 --timeout=60s --workers=100 --handle-volume-inuse-error=false --retry-interval-max=30m --kube-api-qps=20 --kube-api-burst=100
start csi-snapshotter csi-snapshotter "$K" "$A" --v=5 --timeout=60s --extra-create-metadata --kube-api-qps=20 --kube-api-burst=100
start snapshot-controller snapshot-controller "$K" --v=5 --leader-election=false
start efs-provisioner csi-provisioner "$K" "--csi-address=$EFS_CONTROLLER" --v=5 --timeout=60s --extra-create-metadata --worker-threads=100
drivers() { node kubectl get csinode "$NODE" -o 'jsonpath={.spec.drivers[*].name}'; }
registered() { [ "$(drivers | wc -w)" = 2 ]; }
await 120 "the kubelet's word that it knows $EBS and $EFS" registered
node kubectl get csinode "$NODE" -o 'jsonpath={range .spec.drivers[*]}{.name} {.nodeID} {.allocatable} {.topologyKeys}{"\n"}{end}'
echo "ebbtide joined: $(since "$T0") s; EBS: ${EBBTIDE_TEST_EBS_DRIVER:-built in}; EFS: ${EBBTIDE_TEST_EFS_DRIVER:-built in}"
