#!/bin/bash
# Brings up a single-node Kubernetes of plain processes: etcd, kube-apiserver, kube-controller-manager,
# kube-scheduler, containerd, kubelet. They live in mount, PID, network and UTS namespaces of their own
# ("the node"), so nothing of theirs is reachable from, or left on, the machine: down.sh ends the node's
# first process and the kernel does the rest. Needs root, but not CAP_SYS_RESOURCE.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ ! -e "$RUN/init.pid" ] || { echo "up.sh: $RUN/init.pid exists: run down.sh first" >&2; exit 1; }
for b in pause kube-apiserver kube-controller-manager kube-scheduler kubelet etcd; do
  [ -x "$BIN/$b" ] || { echo "up.sh: $BIN/$b is missing: run build.sh first" >&2; exit 1; }
done
CONTAINERD=${CONTAINERD:-$(command -v containerd)}
ETCD=${ETCD:-$BIN/etcd}
CTR=$(dirname "$CONTAINERD")/ctr
mkdir -p "$RUN"/{pki,log,etcd,kubelet,pods-log,containers-log,cni-conf,cni-state,containerd,volume-plugins,manifests}
T0=$(now)

# --- the node's namespaces -------------------------------------------------------------------------------------------
mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers /run/containerd /var/lib/cni /run/ebbtide
mkdir -p "$RUN"/{sbin,etc-upper,etc-work}
ln -s "$EBBTIDE" "$RUN/sbin/mount.efs"
setsid unshare --mount --pid --net --uts --fork --mount-proc --propagation private "$BIN/pause" </dev/null >"$RUN/log/init.log" 2>&1 &
UNSHARE=$!
for _ in $(seq 100); do
  INIT=$(cat "/proc/$UNSHARE/task/$UNSHARE/children" 2>/dev/null | tr -d ' ') && [ -n "$INIT" ] && break
  sleep 0.05
done
echo "$INIT" >"$RUN/init.pid"
# Its /proc is mounted just before it becomes pause.
await 5 "the node's first process" test "$(readlink -f "$BIN/pause")" -ef "/proc/$INIT/exe"
node bash -euc '
  run=$1 node=$2 ip=$3
  mount --make-rshared /
  hostname "$node"
  mount --bind "$run/kubelet" /var/lib/kubelet
  mount --bind "$run/pods-log" /var/log/pods
  mount --bind "$run/containers-log" /var/log/containers
  mount --bind "$run/cni-state" /var/lib/cni
  mount -t tmpfs tmpfs /run/containerd
  mount -t tmpfs tmpfs /run/ebbtide
  # A /dev of its own, so that the names of volumes are the node’s. The loop devices are for the kubelet’s block volumes.
  mkdir -p "$run/dev"
  mount -t tmpfs -o mode=755 dev "$run/dev"
  cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/loop-control /dev/fuse "$run/dev/"
  [ ! -e /dev/kmsg ] || cp -a /dev/kmsg "$run/dev/"
  for n in $(seq 0 63); do mknod -m 660 "$run/dev/loop$n" b 7 "$n"; done
  ln -s /proc/self/fd "$run/dev/fd"; ln -s fd/0 "$run/dev/stdin"; ln -s fd/1 "$run/dev/stdout"; ln -s fd/2 "$run/dev/stderr"
  ln -s pts/ptmx "$run/dev/ptmx"
  mkdir "$run/dev/pts" "$run/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$run/dev/pts"
  mount -t tmpfs shm "$run/dev/shm"
  mount --rbind "$run/dev" /dev
  # mount(8) looks for mount.efs in /sbin only; the EFS driver writes to /etc.
  sbin=$(readlink -f /sbin)
  mount -t overlay -o "lowerdir=$run/sbin:$sbin" overlay "$sbin"
  mount -t overlay -o "lowerdir=/etc,upperdir=$run/etc-upper,workdir=$run/etc-work" overlay /etc
  # The kubelet sets these three for the whole machine where they differ from what it wants. Here it reads what it wants.
  mkdir -p "$run/sysctl"
  for f in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    echo "${f#*=}" >"$run/sysctl/$(basename "${f%=*}")"
    mount --bind "$run/sysctl/$(basename "${f%=*}")" "/proc/sys/${f%=*}"
  done
  ip link set lo up
  # The API service has the first address of the service range. No kube-proxy is needed to reach it.
  ip addr add 10.96.0.1/32 dev lo
  # Not a loopback address, which the kubelet would refuse; the kernel may have no dummy link to put it on.
  ip addr add "$ip/32" dev lo
  ip link add cni0 type bridge
  ip addr add 10.244.0.1/24 dev cni0
  ip link set cni0 up
  ip route add default dev cni0
  sysctl -qw net.ipv4.ip_forward=1
' - "$RUN" "$NODE" "$NODE_IP"

# --- certificates ----------------------------------------------------------------------------------------------------
cd "$RUN/pki"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=kubernetes-ca -keyout ca.key -out ca.crt 2>/dev/null
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
cert() { # name, subject, subjectAltName or ''
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
}
cert apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$NODE_IP"
cert apiserver-kubelet /O=system:masters/CN=apiserver-kubelet-client ""
cert admin /O=system:masters/CN=admin ""
cert kcm /CN=system:kube-controller-manager ""
cert scheduler /CN=system:kube-scheduler ""
cert kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP,IP:127.0.0.1"
cert front-proxy /CN=front-proxy-client ""
config() { # name: a kubeconfig
  cat >"$RUN/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:443", certificate-authority: $RUN/pki/ca.crt}}]
users: [{name: u, user: {client-certificate: $RUN/pki/$1.crt, client-key: $RUN/pki/$1.key}}]
contexts: [{name: d, context: {cluster: c, user: u}}]
current-context: d
Y
}
for c in admin kcm scheduler kubelet; do config $c; done
cd "$HERE"

# --- control plane ---------------------------------------------------------------------------------------------------
start etcd "$ETCD" --data-dir "$RUN/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn
P=$RUN/pki
start kube-apiserver "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --bind-address 0.0.0.0 --secure-port 443 \
  --advertise-address "$NODE_IP" --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC --allow-privileged \
  --client-ca-file "$P/ca.crt" --tls-cert-file "$P/apiserver.crt" --tls-private-key-file "$P/apiserver.key" \
  --kubelet-certificate-authority "$P/ca.crt" --kubelet-client-certificate "$P/apiserver-kubelet.crt" --kubelet-client-key "$P/apiserver-kubelet.key" \
  --kubelet-preferred-address-types InternalIP --service-account-issuer https://kubernetes.default.svc.cluster.local \
  --service-account-key-file "$P/sa.pub" --service-account-signing-key-file "$P/sa.key" \
  --requestheader-client-ca-file "$P/ca.crt" --requestheader-allowed-names front-proxy-client --requestheader-extra-headers-prefix X-Remote-Extra- \
  --requestheader-group-headers X-Remote-Group --requestheader-username-headers X-Remote-User \
  --proxy-client-cert-file "$P/front-proxy.crt" --proxy-client-key-file "$P/front-proxy.key" --profiling=false \
  --audit-policy-file "$HERE/audit.yaml" --audit-log-path "$RUN/log/audit.log"
# --- container runtime -----------------------------------------------------------------------------------------------
cat >"$RUN/cni-conf/10-bridge.conflist" <<J
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR", "rangeStart": "${POD_CIDR%.0/24}.10"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
cat >"$RUN/containerd.toml" <<T
version = 2
root = "$RUN/containerd"
state = "/run/containerd/state"
oom_score = 0
[grpc]
  address = "$CRI"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10.2"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$RUN/cni-conf"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
T
start containerd env PATH="$(dirname "$CONTAINERD"):$PATH" "$CONTAINERD" --config "$RUN/containerd.toml"
await 300 containerd node "$CTR" -a "$CRI" version
echo "containerd answers: $(since "$T0") s"
node "$CTR" -a "$CRI" -n k8s.io images import "$WORK/images.tar" >"$RUN/log/import.log" 2>&1 || { cat "$RUN/log/import.log"; exit 1; }
echo "images imported: $(since "$T0") s"

await 300 "the API server" node kubectl get --raw /readyz
echo "API server ready: $(since "$T0") s"
# Not earlier: without the roles which the API server makes when it starts, the controller manager exits.
start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig "$RUN/kcm.kubeconfig" --authentication-kubeconfig "$RUN/kcm.kubeconfig" \
  --authorization-kubeconfig "$RUN/kcm.kubeconfig" --bind-address 127.0.0.1 --service-account-private-key-file "$P/sa.key" --root-ca-file "$P/ca.crt" \
  --use-service-account-credentials --leader-elect=false --controllers '*,bootstrap-signer-controller,token-cleaner-controller'
start kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$RUN/scheduler.kubeconfig" --authentication-kubeconfig "$RUN/scheduler.kubeconfig" \
  --authorization-kubeconfig "$RUN/scheduler.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false

# --- kubelet ---------------------------------------------------------------------------------------------------------
: >"$RUN/resolv.conf"
cat >"$RUN/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $P/kubelet.crt
tlsPrivateKeyFile: $P/kubelet.key
containerRuntimeEndpoint: unix://$CRI
cgroupDriver: cgroupfs
failCgroupV1: false
oomScoreAdj: 0
failSwapOn: false
enforceNodeAllocatable: []
providerID: aws:///$ZONE/$INSTANCE_ID
resolvConf: $RUN/resolv.conf
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
volumePluginDir: $RUN/volume-plugins
staticPodPath: $RUN/manifests
evictionHard: {memory.available: 100Mi, nodefs.available: 200Mi, imagefs.available: 200Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
registerNode: true
syncFrequency: ${SYNC:-10s}
Y
start kubelet "$BIN/kubelet" --config "$RUN/kubelet.yaml" --kubeconfig "$RUN/kubelet.kubeconfig" --hostname-override "$NODE" --node-ip "$NODE_IP" \
  --node-labels "topology.kubernetes.io/zone=$ZONE,topology.kubernetes.io/region=${ZONE%?},node.kubernetes.io/instance-type=$INSTANCE_TYPE" --v "${KUBELET_V:-2}"
node kubectl create serviceaccount default >/dev/null 2>&1 || true
await 120 "the Node, which the kubelet registers," node kubectl get node "$NODE"
node kubectl wait --for=condition=Ready "node/$NODE" --timeout=300s >/dev/null || { echo "up.sh: the node is not Ready: see $RUN/log/kubelet.log" >&2; exit 1; }
echo "node Ready: $(since "$T0") s"
