# Sourced by the other scripts. Everything they make lies under WORK, except the mount points named in up.sh.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
TOOLS=$ROOT/tests/tools/kubernetes
WORK=${EBBTIDE_KUBERNETES:-$ROOT/target/kubernetes}
BIN=$WORK/bin
# kubectl and the CSI sidecars, which other tests use too (scripts/setup sidecars).
SHARED=${EBBTIDE_TOOLS:-$ROOT/target/tools}
RUN=$WORK/run
EBBTIDE=${EBBTIDE_BIN:-$ROOT/target/debug/ebbtide}
KUBE_VERSION=1.36.3
# The node is this instance of world.yaml.
NODE=ip-10-0-1-10.ec2.internal
NODE_IP=10.0.1.10
POD_CIDR=10.244.0.0/24
ZONE=us-east-1a
INSTANCE_ID=i-0123456789abcdef0
INSTANCE_TYPE=m5.large
CRI=$RUN/containerd.sock
ENDPOINT=http://127.0.0.1:4566
export KUBECONFIG=$RUN/admin.kubeconfig
export PATH=$BIN:$SHARED/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
# Runs a command inside the node: its network, mounts, processes and host name.
node() { nsenter -t "$(cat "$RUN/init.pid")" -m -p -n -u -- "$@"; }
# Starts a daemon inside the node: name, command... Its log is run/log/NAME.log.
start() {
  local name=$1
  shift
  setsid nsenter -t "$(cat "$RUN/init.pid")" -m -p -n -u -- "$@" </dev/null >"$RUN/log/$name.log" 2>&1 &
  echo $! >"$RUN/$name.pid"
}
# Waits until a command succeeds: seconds, what for, command...
await() {
  local limit=$1 what=$2 end
  shift 2
  end=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "$what: not after $limit s; the logs are in $RUN/log" >&2; return 1; }
    sleep 0.1
  done
}
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
# Asks a daemon that start made to end, and waits for that: name, seconds.
stop() {
  local pid daemon
  pid=$(cat "$RUN/$1.pid" 2>/dev/null) || return 0
  # nsenter forked it, and waits for it.
  [ -d "/proc/$pid" ] || return 0
  daemon=$(tr -d ' ' <"/proc/$pid/task/$pid/children" 2>/dev/null) || return 0
  [ -n "$daemon" ] || return 0
  kill "$daemon" 2>/dev/null
  await "$2" "the end of $1" test ! -d "/proc/$daemon"
}
