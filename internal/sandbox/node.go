package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/proxy"
)

// Options of a Node.
type Options struct {
	// Name (at most 8 characters) names the lab, its cgroup and the node. What an earlier Node of this name left is
	// removed at the start.
	Name   string
	Subnet netip.Prefix // of pods: IPv4, at most a /16
	// ServiceSubnet is where ClusterIPs come from; 10.96.0.0/16 if it is zero.
	ServiceSubnet netip.Prefix
	Dir           string // manifests, state, sockets and logs; made anew, and removed by Close. "" is /run/<Name>
	Binary        string // weft; "" is this executable
	Envoy         string // "" is what weft proxy finds
	AgentArgs     []string
}

// Node is a node of a mesh with its pods. Its methods may be called from one goroutine at a time, except for those
// that ask.
type Node struct {
	Options
	RunDir string // of the agent: its sockets
	Lab    *lab.Lab
	API    *api.Client
	Proxy  *proxy.Client

	lock     net.Listener
	pods     map[string]*lab.Pod    // by namespace/name
	services map[string]*netip.Addr // by namespace/name; nil is headless
	nextIP   netip.Addr

	mu    sync.Mutex
	procs []*exec.Cmd // of pods
	agent *agentProcess

	closing  sync.Once
	closeErr error
}

// New makes the lab and the folders. The agent does not run yet.
func New(o Options) (*Node, error) {
	if o.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the weft binary: %w", err)
		}
		o.Binary = self
	}
	if !o.ServiceSubnet.IsValid() {
		o.ServiceSubnet = netip.MustParsePrefix("10.96.0.0/16")
	}
	if o.Dir == "" {
		o.Dir = filepath.Join("/run", o.Name)
	}
	run := filepath.Join(o.Dir, "run")
	n := &Node{
		Options: o, RunDir: run, API: api.NewClient(run), Proxy: &proxy.Client{RunDir: run},
		pods: map[string]*lab.Pod{}, services: map[string]*netip.Addr{},
		nextIP: o.ServiceSubnet.Masked().Addr().Next(),
	}
	var err error
	if n.lock, err = takeLock(o.Name); err != nil {
		return nil, err
	}
	defer func() {
		if n.Lab == nil {
			_ = n.lock.Close()
		}
	}()
	if err := n.clean(); err != nil {
		return nil, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	for _, d := range []string{n.Manifests(), n.stateDir(), n.RunDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	l, err := lab.New(o.Name, o.Subnet)
	if err != nil {
		return nil, err
	}
	n.Lab = l
	return n, nil
}

// Manifests is the folder that the agent watches.
func (n *Node) Manifests() string { return filepath.Join(n.Dir, "manifests") }

func (n *Node) stateDir() string { return filepath.Join(n.Dir, "state") }

// AgentLog is the agent's log file.
func (n *Node) AgentLog() string { return filepath.Join(n.Dir, "agent.log") }

// Pod finds a pod that Apply made. It panics for a name that no manifest holds: a mistake in the program.
func (n *Node) Pod(namespace, name string) *lab.Pod {
	p := n.pods[namespace+"/"+name]
	if p == nil {
		panic("no pod " + namespace + "/" + name)
	}
	return p
}

// ServiceIP is the ClusterIP of a Service that Apply saw, or the zero Addr.
func (n *Node) ServiceIP(namespace, name string) netip.Addr {
	if a := n.services[namespace+"/"+name]; a != nil {
		return *a
	}
	return netip.Addr{}
}

// Apply copies the YAML files below a folder of fsys to Manifests()/folder, with what Kubernetes would fill in, makes the
// Pods of them and starts their processes. It returns when their ports answer.
func (n *Node) Apply(ctx context.Context, fsys fs.FS, folder string) error {
	var files []string
	if err := fs.WalkDir(fsys, folder, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".yaml") {
			files = append(files, path)
		}
		return err
	}); err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no manifests in %s", folder)
	}
	var started []podSpec
	for _, f := range files {
		text, err := fs.ReadFile(fsys, f)
		if err != nil {
			return err
		}
		out, pods, err := n.admit(text)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		if err := n.Write(f, out); err != nil {
			return err
		}
		started = append(started, pods...)
	}
	if err := n.writeHosts(); err != nil {
		return err
	}
	for _, p := range started {
		if err := n.run(p); err != nil {
			return err
		}
	}
	for _, p := range started {
		if err := n.answers(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// Write replaces a file below Manifests() in one step, as editors do.
func (n *Node) Write(file string, text []byte) error {
	path := filepath.Join(n.Manifests(), file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(n.Dir, "next") // beside the watched folder
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Edit changes a file below Manifests() by a function of its text, which must change it.
func (n *Node) Edit(file string, change func(text string) string) error {
	old, err := os.ReadFile(filepath.Join(n.Manifests(), file))
	if err != nil {
		return err
	}
	text := change(string(old))
	if text == string(old) {
		return fmt.Errorf("%s: the edit changes nothing", file)
	}
	return n.Write(file, []byte(text))
}

// Close ends the pods, the agent and Envoy, and takes away all that they left in the kernel and in Dir. A second
// call does nothing.
func (n *Node) Close() error {
	n.closing.Do(func() { n.closeErr = n.close() })
	return n.closeErr
}

func (n *Node) close() error {
	err := n.clean()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.procs {
		_ = c.Wait() // killed by clean
	}
	n.procs = nil
	if n.agent != nil {
		<-n.agent.ended
	}
	return errors.Join(err, n.lock.Close())
}
