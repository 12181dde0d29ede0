# shellcheck shell=bash
# machine.sh - what this machine allows, found out rather than assumed. Source it.

# CAP_SYS_RESOURCE, which is number 24: without it an oom_score_adj below one's own is refused
may_lower_oom_score() {
  local effective
  effective=$(sed -n 's/^CapEff:\s*//p' /proc/self/status)
  (((16#$effective >> 24) & 1))
}

# cgroup v2 alone, not v1 with v2 beside it
unified() { [[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]]; }
