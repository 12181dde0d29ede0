//! Plugs and unplugs interfaces while a Pod runs, as its annotation `k8s.v1.cni.cncf.io/networks` says.
