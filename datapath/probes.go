package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Kinds of bpf/probe.h.
const (
	probeTCP  = 1
	probeHTTP = 2
	probeTLS  = 4
	probeGRPC = 8
)

// probeEntries are the calls by the kubelet that are let in.
type probeEntries struct {
	Ports    map[weftEndpoint]weftProbe
	Requests map[weftProbeRequest]uint32
}

// probeEntriesOf returns those of a local workload. One that lets everybody in has none: the host's processes may send it
// what they like.
func probeEntriesOf(w *model.Workload, cookie uint64) probeEntries {
	e := probeEntries{Ports: map[weftEndpoint]weftProbe{}, Requests: map[weftProbeRequest]uint32{}}
	if workloadFlags(w)&(workloadStrict|workloadPoliced) == 0 {
		return e
	}
	for _, p := range w.Probes {
		for _, a := range slices.Concat(w.Addresses, w.Contested) {
			at := encode(netip.AddrPortFrom(a, p.Port))
			port := e.Ports[at]
			port.Netns = cookie
			port.Kinds |= probeKind(p.Kind)
			e.Ports[at] = port
			if p.Kind == model.ProbeHTTP {
				e.Requests[requestOf(at, p.Target)] = 1
			}
		}
	}
	return e
}

func probeKind(k model.ProbeKind) uint32 {
	switch k {
	case model.ProbeHTTP:
		return probeHTTP
	case model.ProbeHTTPS:
		return probeTLS
	case model.ProbeGRPC:
		return probeGRPC
	}
	return probeTCP
}

func requestOf(at weftEndpoint, target string) weftProbeRequest {
	r := weftProbeRequest{At: at}
	line := "GET " + target + " HTTP/1.1"
	for i := range min(len(line), len(r.Line)) { // model.MaxProbeTarget is less
		r.Line[i] = int8(line[i])
	}
	return r
}

// line is the request line of a declared request.
func (r weftProbeRequest) line() string {
	var b []byte
	for _, c := range r.Line {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}

// probeMaps are the kernel's tables of probes, each entry with the workload that it is of.
type probeMaps struct {
	ports    *claims[weftEndpoint, weftProbe]
	requests *claims[weftProbeRequest, uint32]
}

func newProbeMaps(t tables) (*probeMaps, error) {
	ports, err1 := newClaims("probes", t.probes, func(e weftEndpoint) string { return "probe of " + decode(e).String() })
	requests, err2 := newClaims("probe_requests", t.requests, func(r weftProbeRequest) string {
		return "request " + r.line() + " to " + decode(r.At).String()
	})
	return &probeMaps{ports, requests}, errors.Join(err1, err2)
}

// set replaces what a workload declares. nil takes all of it away.
func (m *probeMaps) set(key string, want probeEntries) error {
	return errors.Join(errors.Join(m.ports.set(key, want.Ports)), errors.Join(m.requests.set(key, want.Requests)))
}

func (m *probeMaps) prune() error {
	return errors.Join(m.ports.prune(m.ports.wanted), m.requests.prune(m.requests.wanted))
}

// probing reports whether a connection is one of the host's own processes that probes a workload.
func (d *Datapath) probing(local, remote netip.AddrPort) bool {
	key := weftProbeFlow{From: encode(remote), To: encode(local)}
	var netns uint64
	return d.maps[weftMapProbeFlows].Lookup(&key, &netns) == nil
}

// podCgroups writes the map of the cgroups that pods are in: processes in them are not the host's own, though they may be in
// its network.
type podCgroups struct {
	*mirror[uint64, uint32]
	// inode returns the number of a cgroup, a path below the cgroup2 mount; 0 if it is gone.
	inode func(path string) uint64
}

func newPodCgroups(t tables, inode func(string) uint64) (*podCgroups, error) {
	m, err := newMirror("pod_cgroups", t.cgroups)
	if err != nil {
		return nil, err
	}
	return &podCgroups{mirror: m, inode: inode}, nil
}

// set writes the cgroups of all pods, and those of local workloads whose cgroups are known. What an earlier agent knew stays
// until the tables are synced: without an entry a pod in the host's network would count as the host.
func (p *podCgroups) set(st *state.State, snap *state.Snapshot, synced bool) error {
	want := map[uint64]bool{}
	add := func(path string) {
		if path == "" || p.inode == nil {
			return
		}
		if n := p.inode(path); n != 0 {
			want[n] = true
		}
	}
	for c := range st.PodCgroups.All(snap) {
		add(c.Path)
	}
	for pl := range st.Placements.All(snap) {
		add(pl.Cgroup)
	}
	var errs []error
	for n := range want {
		errs = append(errs, p.put(n, 1))
	}
	if !synced {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, p.prune(func(n uint64, _ uint32) bool { return want[n] }))...)
}

// cgroupInode returns the number of a cgroup, which is the inode of its directory.
func cgroupInode(dir string) uint64 {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return 0
	}
	return st.Ino
}

// attachProbeSends lets the program see what the sockets of probe_sockets send. It takes the place of an earlier one, and
// stays with the map.
func attachProbeSends(m *ebpf.Map, prog *ebpf.Program) error {
	err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: m.FD(), Program: prog, Attach: ebpf.AttachSkMsgVerdict})
	if err != nil {
		return fmt.Errorf("attach %s to the map %s: %w", weftProgProbeSends, weftMapProbeSockets, err)
	}
	return nil
}

// checkProbeSends attaches the program again where somebody took it away. Kernels before 5.18 cannot tell.
func checkProbeSends(m *ebpf.Map, prog *ebpf.Program) repair {
	want, err := programID(prog)
	if err != nil {
		return repair{found: err.Error(), err: err}
	}
	on, err := link.QueryPrograms(link.QueryOptions{Target: m.FD(), Attach: ebpf.AttachSkMsgVerdict})
	switch {
	case err != nil:
		return repair{}
	case len(on.Programs) == 0:
		return repair{found: "the program was detached", err: attachProbeSends(m, prog)}
	case on.Programs[0].ID != want:
		return repair{found: fmt.Sprintf("the program was replaced by program %d (%s)", on.Programs[0].ID, nameOf(on.Programs[0].ID)), err: attachProbeSends(m, prog)}
	}
	return repair{}
}
