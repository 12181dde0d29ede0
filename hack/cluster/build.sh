# shellcheck shell=bash
# build.sh - Kubernetes, etcd and crictl, compiled from the Go modules that go.mod and crictl/go.mod name. Sourced by
# `cluster`. crictl has a module of its own: with it the kubelet would get other versions of gRPC than it ships with.

PROGRAMS=$CACHE/cluster

compile() {
  preflight go
  local modules=$HACK/cluster version flags=k8s.io/component-base/version
  version=$(version_in "$modules/go.mod" k8s.io/kubernetes)
  say "cluster: compile Kubernetes $version (about 5 minutes on 2 cores when Go's cache is empty, 1 when not)"
  # without a version it calls itself v0.0.0-master, and clients refuse it
  go_build "$modules" -o "$PROGRAMS/" \
    -ldflags "-s -w -X $flags.gitVersion=$version -X $flags.gitMajor=1 -X $flags.gitMinor=$(cut -d. -f2 <<<"$version")" \
    k8s.io/kubernetes/cmd/{kubelet,kube-apiserver,kube-controller-manager,kube-scheduler,kubectl}
  say "cluster: compile etcd"
  go_build "$modules" -ldflags "-s -w" -o "$PROGRAMS/etcd" go.etcd.io/etcd/server/v3
}

compile_crictl() {
  preflight go
  local modules=$HACK/cluster/crictl package=sigs.k8s.io/cri-tools version
  version=$(version_in "$modules/go.mod" $package)
  say "cluster: compile crictl $version (half a minute)"
  go_build "$modules" -ldflags "-s -w -X $package/pkg/version.Version=$version" -o "$CACHE/crictl/crictl" $package/cmd/crictl
}

key_of_crictl() { modules_key "$HACK/cluster/crictl"; }
key_of_cluster() { modules_key "$HACK/cluster"; }

build_crictl() {
  is_cached crictl "$(key_of_crictl)" || preflight go
  cached crictl "$(key_of_crictl)" compile_crictl
}

build() {
  is_cached cluster "$(key_of_cluster)" || preflight go
  build_crictl
  cached cluster "$(key_of_cluster)" compile
}

# what of it is not there, in seconds on 2 cores
build_cost() {
  local sum=0
  is_cached crictl "$(key_of_crictl)" || sum=40
  is_cached cluster "$(key_of_cluster)" || sum=$((sum + 420))
  echo $sum
}
