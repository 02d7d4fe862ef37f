package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/hostaddr"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/proxy"
)

// All processes of a Node are in cgroups below the lab's, Envoy too: one kill ends them, whoever started them.
func (n *Node) proxyCgroup() string { return filepath.Join(n.Name, "envoy") }

func (n *Node) pinDir() string { return filepath.Join("/sys/fs/bpf", n.Name) }

// takeLock keeps a second Node of the same name from taking the first for a dead one. An abstract socket goes with its
// process and leaves no file.
func takeLock(name string) (net.Listener, error) {
	l, err := net.Listen("unix", "@weft-sandbox-"+name)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another one of the name %s runs on this machine; end it first", name)
	}
	return l, err
}

// CleanKilled takes away what Nodes left that were killed. Their hooks stay at the cgroup root and would take the Services
// of others for theirs. One that still runs is an error for the same reason.
func CleanKilled() error { return cleanKilled("") }

// cleanKilled is as CleanKilled, and leaves the Node of a name alone.
func cleanKilled(except string) error {
	pins, _ := filepath.Glob("/sys/fs/bpf/*/links") // the pattern is well formed
	for _, p := range pins {
		name := filepath.Base(filepath.Dir(p))
		other := &Node{Options: Options{Name: name, Dir: filepath.Join("/run", name)}}
		if _, err := os.Stat(other.Manifests()); name == except || err != nil {
			continue // or no sandbox
		}
		lock, err := takeLock(name)
		if err != nil {
			return fmt.Errorf("%w: its hooks would see this one's connections", err)
		}
		other.RunDir = filepath.Join(other.Dir, "run")
		err = other.clean()
		lock.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// clean takes away processes, namespaces, cgroups, hooks and pins of this Node, and of one of the same name before it.
func (n *Node) clean() error {
	root, err := lab.CgroupMount()
	if err != nil {
		return err
	}
	// The processes first: an agent that still ran would attach the hooks again.
	err = lab.Clean(n.Name)
	proxy.Forget(n.RunDir)
	if _, serr := os.Stat(n.pinDir()); serr == nil {
		err = errors.Join(err, datapath.Detach(datapath.Config{CgroupRoot: root, PinDir: n.pinDir(), ProxyCgroup: n.proxyCgroup()}))
		err = errors.Join(err, hostaddr.Remove())
	}
	return errors.Join(err, n.removeHosts(), os.RemoveAll(n.Dir))
}
