//go:build !statechange

package main

import (
	"context"
	"fmt"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
)

// NRI 0.12 and later: a request for each event.
func do(runtime *adaptation.Adaptation, what string, pod *api.PodSandbox) error {
	ctx := context.Background()
	switch what {
	case "run":
		return runtime.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod})
	case "stop":
		return runtime.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod})
	case "remove":
		return runtime.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod})
	case "create":
		return create(runtime, pod)
	}
	return fmt.Errorf("unknown command %q", what)
}
