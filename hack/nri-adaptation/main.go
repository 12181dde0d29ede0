// Command nri-adaptation is a container runtime as far as NRI plugins see one: the adaptation library of
// containerd/nri, which containerd and CRI-O are built with, and no containers. It listens on a socket, takes plugins,
// does what the lines on its standard input say, and prints what happens as lines of JSON.
//
// Which version of the library: go build -modfile=v0.8.0.mod -tags statechange. Without, that of go.mod.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
)

// A line on standard input.
type command struct {
	// "run", "stop", "remove", "create".
	Do string `json:"do"`
	// Id of the sandbox.
	Id string `json:"id"`
	// Bytes of its annotation "large".
	Annotation int `json:"annotation"`
	// Other annotations.
	Annotations map[string]string `json:"annotations"`
}

// A line on standard output.
type happened struct {
	// "listening", "called" (a plugin answered or did not), "synchronized", "done" (a command).
	What string `json:"what"`
	// Which method, which command.
	Of string `json:"of,omitempty"`
	// The plugin's answer as it came.
	Answer []byte `json:"answer,omitempty"`
	// Code of the plugin's status.
	Code codes.Code `json:"code"`
	// Why it failed; for "done", what the Pod's user would see.
	Error string `json:"error,omitempty"`
}

var printing sync.Mutex

func say(event happened) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(string(line))
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// watch tells of each call of a plugin, below the library's own judgement.
func watch(ctx context.Context, request *ttrpc.Request, response *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	err := invoke(ctx, request, response)
	event := happened{What: "called", Of: request.Method, Answer: response.Payload, Error: text(err)}
	if response.Status != nil {
		event.Code, event.Error = codes.Code(response.Status.Code), response.Status.Message
	}
	say(event)
	return err
}

func podOf(order command) *api.PodSandbox {
	annotations := map[string]string{"large": strings.Repeat("x", order.Annotation)}
	for key, value := range order.Annotations {
		annotations[key] = value
	}
	return &api.PodSandbox{
		Id: order.Id, Name: "pod-" + order.Id, Namespace: "default", Uid: "uid-" + order.Id, Annotations: annotations, Pid: 4711,
		Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{
			{Type: "pid"}, {Type: "network", Path: "/var/run/netns/cni-" + order.Id},
		}},
	}
}

func main() {
	socket := flag.String("socket", "", "where to listen")
	pods := flag.Int("pods", 0, "how many Pods there are when a plugin registers")
	annotation := flag.Int("annotation", 0, "bytes of an annotation of each")
	patience := flag.Duration("request-timeout", 2*time.Second, "how long a plugin has for a request")
	flag.Parse()

	synchronize := func(ctx context.Context, tell adaptation.SyncCB) error {
		var existing []*api.PodSandbox
		for number := range *pods {
			existing = append(existing, podOf(command{Id: fmt.Sprint(number), Annotation: *annotation}))
		}
		_, err := tell(ctx, existing, nil)
		say(happened{What: "synchronized", Error: text(err)})
		return err
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	nowhere := filepath.Join(filepath.Dir(*socket), "none")
	adaptation.SetPluginRequestTimeout(*patience)
	runtime, err := adaptation.New("nri-adaptation", "v1", synchronize, update,
		adaptation.WithSocketPath(*socket), adaptation.WithPluginPath(nowhere), adaptation.WithPluginConfigPath(nowhere),
		adaptation.WithTTRPCOptions([]ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(watch)}, nil))
	if err == nil {
		err = runtime.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nri-adaptation:", err)
		os.Exit(1)
	}
	say(happened{What: "listening"})

	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		var order command
		if err := json.Unmarshal(orders.Bytes(), &order); err != nil {
			fmt.Fprintln(os.Stderr, "nri-adaptation:", err)
			os.Exit(2)
		}
		// as containerd does: a plugin that is being synchronized gets the event after it
		block := runtime.BlockPluginSync()
		err := do(runtime, order.Do, podOf(order))
		block.Unblock()
		say(happened{What: "done", Of: order.Do, Error: text(err)})
	}
}

func create(runtime *adaptation.Adaptation, pod *api.PodSandbox) error {
	container := &api.Container{Id: "c-" + pod.Id, PodSandboxId: pod.Id, Name: "web"}
	_, err := runtime.CreateContainer(context.Background(), &api.CreateContainerRequest{Pod: pod, Container: container})
	return err
}
