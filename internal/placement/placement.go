// Package placement writes the table of placements: where each pod of this node runs.
//
// The table has one writer. On a node of a cluster this is Sandboxes: the CNI plugin reports pods as they start and end,
// and pods that started without the plugin are found by their cgroups. With a folder of manifests it is Manifests:
// annotations of the pods name their network namespaces. Everybody else reads the rows.
package placement

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/weft-mesh/weft/internal/model"
)

// defaultNetNSDir is where container runtimes and ip-netns(8) name network namespaces.
const defaultNetNSDir = "/run/netns"

// nsID identifies a network namespace: the device and inode of its nsfs file.
type nsID struct{ dev, ino uint64 }

func idOf(p *model.Placement) nsID { return nsID{p.Device, p.Inode} }

func identify(path string) (nsID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nsID{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nsID{}, fmt.Errorf("%s has no inode", path)
	}
	return nsID{dev: st.Dev, ino: st.Ino}, nil
}

// current reports whether the namespace of a placement is still the one at its path. One that cannot be looked at is.
func current(p *model.Placement) bool {
	ns, err := identify(p.NetNS)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return ns == idOf(p)
}

func isName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}
