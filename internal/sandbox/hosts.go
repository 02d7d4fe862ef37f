package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// hostsRoot is where ip-netns(8) takes /etc/hosts of a namespace from: the names of Services work in
// `ip netns exec`, as DNS would in a cluster.
const hostsRoot = "/etc/netns"

// writeHosts names all Services for each pod, those of its own namespace by their short name too.
func (n *Node) writeHosts() error {
	for pod, p := range n.pods {
		own, _ := model.SplitKey(pod)
		var b strings.Builder
		fmt.Fprintf(&b, "127.0.0.1 localhost\n::1 localhost\n")
		for key, ip := range n.services {
			if ip == nil {
				continue
			}
			ns, name := model.SplitKey(key)
			names := name + "." + ns + ".svc.cluster.local " + name + "." + ns + ".svc " + name + "." + ns
			if ns == own {
				names += " " + name
			}
			fmt.Fprintf(&b, "%s %s\n", ip, names)
		}
		dir := filepath.Join(hostsRoot, p.NetNSName)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) removeHosts() error {
	dirs, err := filepath.Glob(filepath.Join(hostsRoot, n.Name+"-*"))
	for _, d := range dirs {
		err = errors.Join(err, os.RemoveAll(d))
	}
	_ = os.Remove(hostsRoot) // only if nobody else has something there
	return err
}
