package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
)

// node is a machine of the cluster: namespaces, a container runtime and a kubelet.
type node struct {
	name    string
	podCIDR netip.Prefix
	dir     string // what it writes
	machine *lab.Pod
	cluster *Cluster
	launch  launch
	jobs    chan func() // run on the thread that is in the node's namespaces
	runtime *process
	kubelet *process
}

// podCIDR is where the addresses of a node's pods come from; nodes count from 1.
func podCIDR(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)
}

// nodeName names the nodes from 1 on.
func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

// enter makes the node's mount and host name namespaces on a thread of their own, which leave ends. Processes started
// by within are in them, and keep them when this process ends.
func (n *node) enter() error {
	n.jobs = make(chan func())
	entered := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := n.namespaces()
		entered <- err
		if err != nil {
			return
		}
		for job := range n.jobs {
			job()
		}
	}()
	if err := <-entered; err != nil {
		n.jobs = nil
		return fmt.Errorf("namespaces of node %s: %w", n.name, err)
	}
	return nil
}

func (n *node) leave() {
	if n.jobs != nil {
		close(n.jobs)
		n.jobs = nil
	}
}

// within runs f on the node's thread.
func (n *node) within(f func() error) error {
	done := make(chan error, 1)
	n.jobs <- func() { done <- f() }
	return <-done
}

func (n *node) namespaces() error {
	ns, err := netns.GetFromPath(n.machine.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Sethostname([]byte(n.name)); err != nil {
		return err
	}
	root, err := lab.CgroupMount()
	if err != nil {
		return err
	}
	if err := mountNode(n.dir, filepath.Join(root, n.machine.Cgroup), nameservers(readResolvConf(), n.cluster.lab.Gateway.String())); err != nil {
		return err
	}
	conf := "/etc/cni/net.d/10-bridge.conflist"
	if _, err := os.Stat(conf); err == nil {
		return nil // a mesh may have put itself into it before the node rebooted
	}
	return os.WriteFile(conf, n.cniConfig(), 0o644)
}

// boot starts what a machine starts, and gives it the images.
func (n *node) boot(ctx context.Context, archives []string) (err error) {
	if n.launch, err = n.cluster.launchOn(n.machine, "system", n.within); err != nil {
		return err
	}
	if err := n.enter(); err != nil {
		return err
	}
	if err := n.startRuntime(ctx, archives); err != nil {
		return err
	}
	return n.startKubelet()
}

// startRuntime starts containerd and gives it the images.
func (n *node) startRuntime(ctx context.Context, archives []string) (err error) {
	config := filepath.Join(n.dir, "containerd.toml")
	if err := os.WriteFile(config, []byte(containerdConfig), 0o644); err != nil {
		return err
	}
	if n.runtime, err = start(n.launch, "containerd-"+n.name, n.cluster.bin["containerd"], "--config", config); err != nil {
		return err
	}
	if err := n.ctr(ctx, "version"); err != nil { // a kubelet ends where no runtime answers
		return err
	}
	for _, a := range archives {
		if err := n.ctr(ctx, "--namespace", "k8s.io", "images", "import", a); err != nil {
			return err
		}
	}
	return nil
}

// ctr runs containerd's client, again and again while the runtime starts, for a minute.
func (n *node) ctr(ctx context.Context, args ...string) error {
	deadline := time.Now().Add(time.Minute)
	for {
		out, err := n.run(ctx, n.cluster.bin["ctr"], args...)
		if err == nil {
			return nil
		}
		if ended := n.runtime.ended(); ended != nil {
			return ended
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("node %s: ctr %s: %w: %s: see %s", n.name, strings.Join(args, " "), err, tail(out, 3), n.runtime.log)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// run runs a command in the node and gives what it wrote.
func (n *node) run(ctx context.Context, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.within(cmd.Start); err != nil {
		return nil, err
	}
	err := cmd.Wait()
	return []byte(out.String()), err
}

// startKubelet starts the kubelet, which registers the node.
func (n *node) startKubelet() (err error) {
	ca, address := n.cluster.API.ca, n.machine.Address.String()
	identity := subject{name: "system:node:" + n.name, groups: []string{"system:nodes"}, hosts: []string{address, n.name}}
	kubeconfig, config := filepath.Join(n.dir, "kubeconfig"), filepath.Join(n.dir, "kubelet.json")
	if err := errors.Join(
		ca.issue("kubelet-"+n.name, identity),
		ca.kubeconfig(kubeconfig, n.cluster.API.URL, identity),
		os.WriteFile(config, n.kubeletConfig(), 0o644),
	); err != nil {
		return err
	}
	n.kubelet, err = start(n.launch, "kubelet-"+n.name, n.cluster.bin["kubelet"],
		"--config", config, "--kubeconfig", kubeconfig, "--hostname-override", n.name, "--node-ip", address)
	return err
}

// podsCgroup is the root of the node's pods. The node's own processes are in system beside it, since a cgroup that has
// cgroups with controllers takes no process.
func (n *node) podsCgroup() string { return "/" + n.machine.Cgroup + "/pods" }

func (n *node) makeCgroups() error { return makeCgroup(n.podsCgroup()) }

// cniConfig puts pods on a bridge. Packets keep the pods' addresses: the other machines have routes to them.
func (n *node) cniConfig() []byte {
	type object = map[string]any
	return mustJSON(object{
		"cniVersion": "1.0.0", "name": "pods",
		"plugins": []object{{
			"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
			"ipam": object{
				"type":   "host-local",
				"ranges": [][]object{{{"subnet": n.podCIDR.String()}}},
				"routes": []object{{"dst": "0.0.0.0/0"}},
			},
		}},
	})
}

// kubeletConfig is a KubeletConfiguration. Images are in no registry, so disk pressure must not remove them.
func (n *node) kubeletConfig() []byte {
	type object = map[string]any
	ca := n.cluster.API.ca
	return mustJSON(object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": object{
			"anonymous": object{"enabled": false}, "webhook": object{"enabled": true},
			"x509": object{"clientCAFile": ca.file("ca.crt")},
		},
		"authorization": object{"mode": "Webhook"},
		"tlsCertFile":   ca.file("kubelet-" + n.name + ".crt"), "tlsPrivateKeyFile": ca.file("kubelet-" + n.name + ".key"),
		"clusterDomain": "cluster.local", "clusterDNS": []string{serviceDNS}, "resolvConf": "/etc/resolv.conf",
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"cgroupDriver":             "cgroupfs", "cgroupRoot": n.podsCgroup(), "enforceNodeAllocatable": []string{},
		"failCgroupV1": false, // machines with both versions
		"failSwapOn":   false, "localStorageCapacityIsolation": false, "maxPods": 250,
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"evictionHard": object{"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
	})
}

// addRoutes leads packets for the pods of other nodes to these nodes, and says that the pool is on the link. It runs in
// the namespace of the machine that has the link; own is its address.
func addRoutes(link string, own netip.Addr, nodes []*node) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	err = netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(Pool), Scope: netlink.SCOPE_LINK, Src: own.AsSlice()})
	if err != nil {
		return fmt.Errorf("route to %s: %w", Pool, err)
	}
	for _, n := range nodes {
		if n.machine.Address == own {
			continue
		}
		err := netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(n.podCIDR), Gw: n.machine.Address.AsSlice()})
		if err != nil {
			return fmt.Errorf("route to %s by %s: %w", n.podCIDR, n.machine.Address, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func mustJSON(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // maps, strings and numbers always have a form
	}
	return b
}

// containerdConfig leaves the folders where a node's packages would have them. Without CAP_SYS_RESOURCE nobody may lower
// an OOM score, so containers get no lower one than containerd.
const containerdConfig = `version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "` + sandboxImage + `"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
`
