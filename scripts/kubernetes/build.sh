#!/bin/bash
# Installs the Debian packages and builds all programs into target/kubernetes/bin. Usage: build.sh [apt|k8s|etcd|e2e|images]...
# (without words: all of them). Every source comes from the Go module proxy, at the versions of tests/tools/kubernetes/*/go.mod.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
mkdir -p "$BIN"
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
V=k8s.io/component-base/version
# An unset version makes the API server, the kubelet and e2e.test take themselves for v0.0.0 and refuse one another.
LD="-s -w -X $V.gitVersion=v$KUBE_VERSION -X $V.gitMajor=1 -X $V.gitMinor=${KUBE_VERSION:2:2} -X $V.gitTreeState=clean -X $V.gitCommit=$(printf '0%.0s' {1..40}) -X $V.buildDate=2026-01-01T00:00:00Z"
K=k8s.io/kubernetes
timed() { local t; t=$(now); "$@"; echo "built in $(since "$t") s: ${*: -1}"; }
for what in ${*:-apt k8s etcd e2e images}; do
  case $what in
    apt)
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends containerd runc iptables conntrack socat ethtool curl \
        containernetworking-plugins busybox-static bash-static gcc libc6-dev openssl iproute2 xfsprogs e2fsprogs >/dev/null ;;
    k8s)
      cd "$TOOLS/cluster"
      timed go build -trimpath -ldflags "$LD" -o "$BIN/" $K/cmd/kube-apiserver $K/cmd/kube-controller-manager $K/cmd/kube-scheduler $K/cmd/kubelet
      timed go build -trimpath -ldflags "$LD" -o "$BIN/agnhost" $K/test/images/agnhost
      gcc -Os -static -s -DVERSION=local -o "$BIN/pause" "$(go list -m -f '{{.Dir}}' $K)/build/pause/linux/pause.c" ;;
    etcd)
      cd "$TOOLS/etcd"
      timed go build -trimpath -ldflags "-s -w" -o "$BIN/etcd" go.etcd.io/etcd/server/v3 ;;
    e2e)
      cd "$TOOLS/cluster"
      timed go build -trimpath -ldflags "-s -w" -o "$BIN/" github.com/onsi/ginkgo/v2/ginkgo
      timed go test -c -vet=off -trimpath -ldflags "$LD" -o "$BIN/e2e.test" $K/test/e2e ;;
    images)
      cd "$TOOLS/cluster"
      "$HERE/images.py" "$BIN" "$(go list -m -f '{{.Dir}}' $K)/build/pause/linux/pause.c" "$WORK/images.tar" ;;
    *) echo "build.sh: unknown: $what" >&2; exit 2 ;;
  esac
done
