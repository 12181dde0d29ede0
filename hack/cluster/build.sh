# shellcheck shell=bash
# build.sh - Kubernetes, etcd and crictl, compiled from the Go modules that go.mod, VERSION/go.mod and crictl/go.mod name. Sourced
# by `cluster`. crictl has a module of its own: with it the kubelet would get other versions of gRPC than it ships with.

# the directory of the go.mod of $KUBERNETES
kubernetes_modules() { if [[ $KUBERNETES == 1.36 ]]; then echo "$HACK/cluster"; else echo "$HACK/cluster/$KUBERNETES"; fi; }
[[ -e $(kubernetes_modules)/go.mod ]] ||
  misuse "NETDEVICE_KUBERNETES=$KUBERNETES is none of $(cd "$HACK/cluster" && echo 1.36 [0-9].*)"

compile() {
  preflight go
  local modules programs version flags=k8s.io/component-base/version
  modules=$(kubernetes_modules) programs=$(kubernetes_programs)
  version=$(version_in "$modules/go.mod" k8s.io/kubernetes)
  say "cluster: compile Kubernetes $version (about 5 minutes on 2 cores when Go's cache is empty, 1 when not)"
  # without a version it calls itself v0.0.0-master, and clients refuse it
  go_build "$modules" -o "$programs/" \
    -ldflags "-s -w -X $flags.gitVersion=$version -X $flags.gitMajor=1 -X $flags.gitMinor=$(cut -d. -f2 <<<"$version")" \
    k8s.io/kubernetes/cmd/{kubelet,kube-apiserver,kube-controller-manager,kube-scheduler,kubectl}
  # one for all versions
  say "cluster: compile etcd"
  go_build "$HACK/cluster" -ldflags "-s -w" -o "$programs/etcd" go.etcd.io/etcd/server/v3
}

compile_crictl() {
  preflight go
  local modules=$HACK/cluster/crictl package=sigs.k8s.io/cri-tools version
  version=$(version_in "$modules/go.mod" $package)
  say "cluster: compile crictl $version (half a minute)"
  go_build "$modules" -ldflags "-s -w -X $package/pkg/version.Version=$version" -o "$CACHE/crictl/crictl" $package/cmd/crictl
}

key_of_crictl() { modules_key "$HACK/cluster/crictl"; }
key_of_cluster() { modules_key "$(kubernetes_modules)"; }
part_of_cluster() { basename "$(kubernetes_programs)"; }

build_crictl() {
  is_cached crictl "$(key_of_crictl)" || preflight go
  cached crictl "$(key_of_crictl)" compile_crictl
}

build() {
  is_cached "$(part_of_cluster)" "$(key_of_cluster)" || preflight go
  build_crictl
  cached "$(part_of_cluster)" "$(key_of_cluster)" compile
}

# what of it is not there, in seconds on 2 cores
build_cost() {
  local sum=0
  is_cached crictl "$(key_of_crictl)" || sum=40
  is_cached "$(part_of_cluster)" "$(key_of_cluster)" || sum=$((sum + 420))
  echo $sum
}
