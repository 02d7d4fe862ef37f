package sandbox

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/lab"
)

// All processes of a Node are in cgroups below the lab's, Envoy too: one kill ends them, whoever started them.
func (n *Node) proxyCgroup() string { return filepath.Join(n.Name, "envoy") }

func (n *Node) pinDir() string { return filepath.Join("/sys/fs/bpf", n.Name) }

// clean takes away processes, namespaces, cgroups, hooks and pins of this Node, and of one of the same name before it.
func (n *Node) clean() error {
	root, err := lab.CgroupMount()
	if err != nil {
		return err
	}
	// The processes first: an agent that still ran would attach the hooks again.
	err = lab.Clean(n.Name)
	if _, serr := os.Stat(n.pinDir()); serr == nil {
		err = errors.Join(err, datapath.Detach(datapath.Config{CgroupRoot: root, PinDir: n.pinDir(), ProxyCgroup: n.proxyCgroup()}))
	}
	return errors.Join(err, n.removeHosts(), os.RemoveAll(n.Dir))
}
