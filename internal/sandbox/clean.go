package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weft-mesh/weft/datapath"
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
	}
	return errors.Join(err, n.removeHosts(), os.RemoveAll(n.Dir))
}
