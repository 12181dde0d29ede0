# shellcheck shell=bash
# build.sh - Kubernetes, etcd and crictl, compiled from the Go modules that go.mod and crictl/go.mod name. Sourced by
# `cluster`. crictl has a module of its own: with it the kubelet would get other versions of gRPC than it ships with.

PROGRAMS=$CACHE/cluster

# linked with the version that clients and `--version` see; without it Kubernetes calls itself v0.0.0-master
version_of() { go list -m -f '{{.Version}}' "$1"; }

compile() {
  local version flags=k8s.io/component-base/version
  cd "$HACK/cluster"
  say "cluster: compile Kubernetes, etcd and crictl (about 6 minutes on 2 cores when Go's cache is empty, 1 when not)"
  version=$(version_of k8s.io/kubernetes)
  nice go build -trimpath -o "$PROGRAMS/" \
    -ldflags "-s -w -X $flags.gitVersion=$version -X $flags.gitMajor=1 -X $flags.gitMinor=$(cut -d. -f2 <<<"$version")" \
    k8s.io/kubernetes/cmd/{kubelet,kube-apiserver,kube-controller-manager,kube-scheduler,kubectl}
  say "cluster: Kubernetes $version is compiled; etcd and crictl"
  nice go build -trimpath -ldflags "-s -w" -o "$PROGRAMS/etcd" go.etcd.io/etcd/server/v3
  cd crictl
  nice go build -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$(version_of sigs.k8s.io/cri-tools)" \
    -o "$PROGRAMS/crictl" sigs.k8s.io/cri-tools/cmd/crictl
  say "cluster: compiled"
}

build() {
  go_environment
  cached cluster "$(cat "$HACK"/cluster/{,crictl/}go.* | sha256sum)" compile
}
