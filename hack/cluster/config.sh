# shellcheck shell=bash
# config.sh - keys, tokens, kubeconfigs and the kubelet's settings in a node's own /etc/kubernetes. Sourced by `cluster`.

NODE_ADDRESS=10.212.0.2    # eth0, see ../node/init.sh
# shellcheck disable=SC2034  # for `cluster`
SERVICE_ADDRESS=10.96.0.1  # first of the service range: the Service "kubernetes"
ETC=/etc/kubernetes

# Clients show tokens; the API server makes its own certificate; service account tokens need a key.
write_credentials() {
  in_node openssl genrsa -out $ETC/pki/service-accounts.key 2048 2>/dev/null
  cat > "$NODE/fs$ETC/pki/tokens.csv" <<EOT
rig-admin,admin,admin,"system:masters"
rig-controller-manager,controller-manager,controller-manager,"system:masters"
rig-scheduler,system:kube-scheduler,scheduler
rig-kubelet,system:node:$NAME,kubelet,"system:nodes"
EOT
  local who
  for who in admin controller-manager scheduler kubelet; do
    cat > "$NODE/fs$ETC/$who.conf" <<EOT
apiVersion: v1
kind: Config
current-context: rig
contexts: [{name: rig, context: {cluster: rig, user: $who}}]
clusters: [{name: rig, cluster: {server: "https://$NODE_ADDRESS:443", certificate-authority: $ETC/pki/ca.crt}}]
users: [{name: $who, user: {token: rig-$who}}]
EOT
  done
}

write_kubelet_config() {
  : > "$NODE/fs$ETC/resolv.conf"
  cat > "$NODE/fs$ETC/kubelet.yaml" <<EOT
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
staticPodPath: $ETC/manifests
fileCheckFrequency: 1s
# how soon a device plugin's list shows in the Node object; 10s by default
nodeStatusUpdateFrequency: 1s
# nobody else is in this network; the read-only port tells a standalone kubelet's Pods
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
readOnlyPort: 10255
# v1 is refused by default since 1.35
failCgroupV1: false
cgroupDriver: cgroupfs
# not [] and {}: --config-dir drops empty lists and maps
enforceNodeAllocatable: [none]
failSwapOn: false
# the disk is the machine's: never evict or collect images because of how full it is
evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
# no iptables is needed; a look-up in a Pod fails at once
makeIPTablesUtilChains: false
clusterDNS: [127.0.0.1]
resolvConf: $ETC/resolv.conf
EOT
  # where this machine forbids the kubelet's own -999
  may_lower_oom_score || echo 'oomScoreAdj: 0' >> "$NODE/fs$ETC/kubelet.yaml"
}
