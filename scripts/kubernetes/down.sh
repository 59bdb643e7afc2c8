#!/bin/bash
# Ends the node that up.sh made: first ebbtide, so that its devices go, then the node's first process, and with it every process, mount
# and interface in its namespaces.
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
if [ -e "$RUN/init.pid" ]; then
  INIT=$(cat "$RUN/init.pid")
  # Only if that process is still our own pause program.
  if [ "$(readlink "/proc/$INIT/exe")" = "$BIN/pause" ]; then
    # The kubelet and the containers would mount again, and hold the devices.
    for name in kubelet csi-attacher kube-controller-manager; do stop $name 10; done
    CTR=$(dirname "$(command -v containerd)")/ctr
    for task in $(node "$CTR" -a "$CRI" -n k8s.io tasks ls -q 2>/dev/null); do
      node "$CTR" -a "$CRI" -n k8s.io tasks kill -s KILL "$task" 2>/dev/null
    done
    for _ in $(seq 50); do
      [ -z "$(node "$CTR" -a "$CRI" -n k8s.io tasks ls 2>/dev/null | grep RUNNING)" ] && break
      sleep 0.1
    done
    # Mounts of block devices are undone, while their drivers still live; so are loop devices over them.
    node awk '$2 ~ "^/var/lib/kubelet/" { print $2 }' /proc/mounts 2>/dev/null | tac | while read -r m; do node umount "$m" 2>/dev/null; done
    node losetup -n -O NAME,BACK-FILE 2>/dev/null | awk '$2 ~ "^/var/lib/kubelet/" || $2 ~ "^/dev/nvme" { print $1 }' | while read -r l; do node losetup -d "$l"; done
    # The agent and the endpoint take the devices down.
    for name in agent ebbtide; do stop $name 20; done
    kill -9 "$INIT"
    for _ in $(seq 100); do [ -d "/proc/$INIT" ] || break; sleep 0.1; done
  fi
fi
# The control groups that the kubelet made, deepest first.
for g in /sys/fs/cgroup/*/kubepods; do
  [ -d "$g" ] && find "$g" -depth -type d -exec rmdir {} + 2>/dev/null
done
rmdir /sys/fs/cgroup/*/k8s.io 2>/dev/null
# Not /var/lib/kubelet: removing it takes away what nodes of other ebbtides on this machine have mounted there, in their namespaces.
rmdir /var/log/pods /var/log/containers /run/containerd /var/lib/cni 2>/dev/null
if [ "${KEEP_LOGS:-}" ]; then rm -f "$RUN/init.pid"; else rm -rf "$RUN"; fi
exit 0
