//go:build statechange

package main

import (
	"context"
	"fmt"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
)

// NRI up to 0.11: one request for all events of Pods.
func do(runtime *adaptation.Adaptation, what string, pod *api.PodSandbox) error {
	ctx, event := context.Background(), &api.StateChangeEvent{Pod: pod}
	switch what {
	case "run":
		return runtime.RunPodSandbox(ctx, event)
	case "stop":
		return runtime.StopPodSandbox(ctx, event)
	case "remove":
		return runtime.RemovePodSandbox(ctx, event)
	case "create":
		return create(runtime, pod)
	}
	return fmt.Errorf("unknown command %q", what)
}
