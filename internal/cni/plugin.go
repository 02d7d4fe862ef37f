package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// Type is the plugin's name in a network configuration, and that of its binary.
	Type = "weft-cni"

	addTimeout  = 30 * time.Second
	restTimeout = 10 * time.Second // of all other commands
)

// conf is the plugin's part of a network configuration.
type conf struct {
	types.PluginConf
	// Socket is where the agent answers.
	Socket string `json:"socket"`
	// Modes is the file of the namespaces' modes.
	Modes string `json:"modes"`
	// LogFile may be empty: nothing is logged.
	LogFile string `json:"logFile"`
}

// podArgs are the arguments that container runtimes of Kubernetes give.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // names of the CNI arguments
	K8S_POD_NAME      types.UnmarshallableString //nolint:revive // as above
	K8S_POD_UID       types.UnmarshallableString //nolint:revive // as above
}

// Invoked reports whether the process was started as the plugin, by the binary's name.
func Invoked() bool { return len(os.Args) > 0 && filepath.Base(os.Args[0]) == Type }

// Plugin does what the environment's CNI_COMMAND asks, on standard input and output, and gives the exit status.
func Plugin(weftVersion string) int {
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.All, "CNI plugin of the mesh Weft "+weftVersion)
	if err == nil {
		return 0
	}
	if err.Print() != nil {
		return 2 // nobody reads
	}
	return 1
}

// invocation is one run of the plugin.
type invocation struct {
	conf conf
	req  *Request // nil if the sandbox is no pod's
	log  *slog.Logger
	done func()
}

func begin(args *skel.CmdArgs) (*invocation, error) {
	in := &invocation{}
	if err := json.Unmarshal(args.StdinData, &in.conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	if in.conf.Socket == "" || in.conf.Modes == "" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, Type+" needs socket and modes in its network configuration",
			"the agent writes them: see whether weft-agent runs on this node with --cni")
	}
	var k podArgs
	k.IgnoreUnknown = true
	if err := types.LoadArgs(args.Args, &k); err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+err.Error(), "")
	}
	in.log, in.done = openLog(in.conf.LogFile)
	if k.K8S_POD_NAME == "" || k.K8S_POD_NAMESPACE == "" {
		return in, nil
	}
	in.req = &Request{
		Namespace: string(k.K8S_POD_NAMESPACE), Name: string(k.K8S_POD_NAME), UID: string(k.K8S_POD_UID),
		ContainerID: args.ContainerID, NetNS: args.Netns,
	}
	in.log = in.log.With("pod", in.req.Pod(), "container", args.ContainerID)
	return in, nil
}

// call asks the agent, within a time.
func (in *invocation) call(path string, body any, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return call(ctx, in.conf.Socket, path, body)
}

// add answers when the pod is in the mesh, with the result of the plugin before.
func add(args *skel.CmdArgs) error {
	in, err := begin(args)
	if err != nil {
		return err
	}
	defer in.done()
	before, addrs, err := in.previous()
	if err != nil {
		return err
	}
	if in.req != nil {
		if in.req.UID == "" {
			return types.NewError(types.ErrInvalidEnvironmentVariables, "the container runtime does not tell the pod's UID (K8S_POD_UID)",
				"containerd does since 1.4, CRI-O since 1.18")
		}
		in.req.Addresses = addrs
		if err := in.join(); err != nil {
			in.log.Error("ADD fails", "error", err)
			return err
		}
	}
	return types.PrintResult(before, in.conf.CNIVersion)
}

func (in *invocation) join() error {
	err := in.call(pathAdd, in.req, addTimeout)
	var down *downError
	if !errors.As(err, &down) {
		return err
	}
	why, err := withoutAgent(in.conf.Modes, in.req.Namespace, down)
	if err != nil {
		return err
	}
	in.log.Warn("the pod starts outside the mesh and joins when the agent is back", "why", why, "error", down)
	return nil
}

// previous gives the result of the plugin before, and the addresses in it.
func (in *invocation) previous() (types.Result, []netip.Addr, error) {
	if err := version.ParsePrevResult(&in.conf.PluginConf); err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "result of the plugin before: "+err.Error(), "")
	}
	if in.conf.PrevResult == nil {
		return nil, nil, types.NewError(types.ErrInvalidNetworkConfig, Type+" must be chained after a plugin that makes the network",
			"put it last in the conflist")
	}
	r, err := current.NewResultFromResult(in.conf.PrevResult)
	if err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "result of the plugin before: "+err.Error(), "")
	}
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return in.conf.PrevResult, addrs, nil
}

// del ends the pod's connections and tells the agent. It never fails: what the agent does not hear it finds out, for the namespace
// is gone.
func del(args *skel.CmdArgs) error {
	in, err := begin(args)
	if err != nil {
		return nil //nolint:nilerr // a pod must be able to end whatever the configuration has become
	}
	defer in.done()
	if in.req == nil || in.req.UID == "" {
		return nil
	}
	if err := endConnections(args.Netns); err != nil {
		in.log.Warn("failed to end the connections of a pod that is gone: its peers may wait for it", "error", err)
	}
	if err := in.call(pathDel, in.req, restTimeout); err != nil {
		in.log.Warn("the agent did not hear of DEL", "error", err)
	}
	return nil
}

// check asks the agent. One that does not answer tells nothing about the pod: hooks and Envoy go on without it.
func check(args *skel.CmdArgs) error {
	in, err := begin(args)
	if err != nil {
		return err
	}
	defer in.done()
	if in.req == nil || in.req.UID == "" {
		return nil
	}
	err = in.call(pathCheck, in.req, restTimeout)
	var down *downError
	if errors.As(err, &down) {
		in.log.Warn("CHECK cannot ask", "error", down)
		return nil
	}
	return err
}

// gc hands the list of sandboxes that there are to the agent.
func gc(args *skel.CmdArgs) error {
	in, err := begin(args)
	if err != nil {
		return err
	}
	defer in.done()
	keep := Keep{ContainerIDs: []string{}}
	for _, a := range in.conf.ValidAttachments {
		keep.ContainerIDs = append(keep.ContainerIDs, a.ContainerID)
	}
	if err := in.call(pathGC, keep, restTimeout); err != nil {
		in.log.Warn("the agent did not hear of GC", "error", err)
	}
	return nil
}

// status is about the node, which the kubelet takes for not ready if it fails, and whose pods are then moved away. A
// mesh whose agent is restarted is no reason for that: ADD decides for each pod.
func status(args *skel.CmdArgs) error {
	in, err := begin(args)
	if err != nil {
		return err
	}
	in.done()
	return nil
}

// maxLog is the size in bytes past which the log file is moved to <file>.1.
const maxLog = 1 << 20

// openLog appends to a file. Without one nothing is logged: a plugin must not fail for its log.
func openLog(file string) (*slog.Logger, func()) {
	discard := slog.New(slog.DiscardHandler)
	if file == "" {
		return discard, func() {}
	}
	if info, err := os.Stat(file); err == nil && info.Size() > maxLog {
		_ = os.Rename(file, file+".1") // it grows on if that fails
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrNotExist) && os.MkdirAll(filepath.Dir(file), 0o755) == nil {
		f, err = os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return discard, func() {}
	}
	return slog.New(slog.NewTextHandler(f, nil)), func() { f.Close() }
}

// withoutAgent decides what a pod does that comes while no agent answers: why it goes on, or an error.
func withoutAgent(file, namespace string, down error) (why string, err error) {
	look := fmt.Sprintf("see whether the weft-agent of this node runs (kubectl -n weft-system get pods -o wide): %v", down)
	modes, err := ReadModes(file)
	if err != nil {
		return "", tryLater(fmt.Sprintf("whether pods of namespace %s may start outside the mesh is not known: %v", namespace, err), look)
	}
	switch mode, known := modes[namespace]; {
	case !known:
		return "", tryLater(fmt.Sprintf("namespace %s is not known on this node: its pods may need the mesh, whose agent is down", namespace), look)
	case mode.Strict():
		return "", tryLater(fmt.Sprintf("namespace %s has pods of mTLS mode strict, which may not start outside the mesh, and its agent is down",
			namespace), look)
	}
	return "no pod of namespace " + namespace + " is strict", nil
}
