package xds

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// toListener hands the connections of a pod to Envoy's listener in it, as the kernel's hooks do, except for those that
// Envoy itself makes to peers.
func toListener(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		podRun(t, p, program, "-w", "-t", "nat", "-A", "OUTPUT", "-o", "eth0", "-p", "tcp", "!", "--dport", strconv.Itoa(PortHBONE),
			"-j", "REDIRECT", "--to-ports", strconv.Itoa(int(port)))
	}
}

// stat reads one of Envoy's statistics.
func (e *envoy) stat(name string) int {
	e.t.Helper()
	body, err := e.get("/stats?format=json&filter=^" + strings.ReplaceAll(name, ".", "\\.") + "$")
	if err != nil {
		e.t.Fatal(err)
	}
	var out struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		e.t.Fatal(err)
	}
	for _, s := range out.Stats {
		if s.Name == name {
			return s.Value
		}
	}
	e.t.Fatalf("Envoy has no statistic %s", name)
	return 0
}

// heap returns the bytes that Envoy has allocated.
func (e *envoy) heap() int {
	e.t.Helper()
	body, err := e.get("/memory")
	if err != nil {
		e.t.Fatal(err)
	}
	var m struct {
		Allocated int `json:"allocated,string"`
	}
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		e.t.Fatal(err)
	}
	return m.Allocated
}

// destinations counts the hosts of a cluster.
func (e *envoy) destinations(cluster string) int {
	e.t.Helper()
	body, err := e.get("/clusters?format=json")
	if err != nil {
		e.t.Fatal(err)
	}
	var out struct {
		ClusterStatuses []struct {
			Name         string            `json:"name"`
			HostStatuses []json.RawMessage `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		e.t.Fatal(err)
	}
	for _, c := range out.ClusterStatuses {
		if c.Name == cluster {
			return len(c.HostStatuses)
		}
	}
	e.t.Fatalf("Envoy has no cluster %s", cluster)
	return 0
}

// sweep connects to the first ports of addresses, 64 at a time, and returns how many connections Envoy took.
func sweep(t *testing.T, from *lab.Pod, to []netip.Addr, ports int) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	work := make(chan netip.AddrPort)
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for at := range work {
				c, err := from.Dial(ctx, "tcp", at.String())
				if err != nil {
					continue
				}
				taken.Add(1)
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				_, _ = c.Read(make([]byte, 1))
				_ = c.Close()
			}
		})
	}
	for _, a := range to {
		for port := 1; port <= ports; port++ {
			if at := netip.AddrPortFrom(a, uint16(port)); at.Port() != PortHBONE {
				work <- at
			}
		}
	}
	close(work)
	wg.Wait()
	return int(taken.Load())
}

// Nothing that a client chooses makes state without a bound: the clusters follow the peers, not the ports that a pod
// connects to.
func TestPortSweepMakesNoClusters(t *testing.T) {
	const ports = 1500
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	_, b := strictPair(w, pods)
	toListener(t, pods[0], PortTCP)
	e := w.envoy()
	clusters, heap := e.stat("cluster_manager.active_clusters"), e.heap()
	if n := sweep(t, pods[0], b.Addresses, ports); n != 2*ports {
		t.Errorf("Envoy took %d of %d connections", n, 2*ports)
	}
	if now := e.stat("cluster_manager.active_clusters"); now > clusters+len(b.Addresses) {
		t.Errorf("%d clusters before a sweep of the ports of one pod, %d after it; want one for each of its addresses", clusters, now)
	}
	if n := e.destinations(clusterConnect); n >= ports {
		t.Errorf("Envoy remembers %d of %d destinations that nobody is connected to", n, 2*ports)
	}
	t.Logf("heap: %d KiB before, %d KiB after", heap>>10, e.heap()>>10)
	w.noRejections()

	// The port still arrives.
	echo(t, pods[1], 8080, "b")
	for _, addr := range b.Addresses {
		status, body, err := ask(pods[0], netip.AddrPortFrom(addr, 8080).String(), "b", "/")
		if err != nil || status != 200 || !strings.HasPrefix(body, "b GET /") {
			t.Errorf("%s: %d %q %v", addr, status, body, fmt.Sprint(err))
		}
	}
}

// A destination that a connection uses is not forgotten: Envoy's idle connection to the app serves the next request.
func TestIdleConnectionToAppIsKept(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	b := workload(pods[1], "shop", model.MTLSPermissive, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
		{Ports: []uint16{8080}, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}},
	}})
	put(w, w.st.Workloads, b)
	put(w, w.st.SVIDs, w.ca.svid(b.Identity))
	echo(t, pods[1], 8080, "b")
	w.envoy()
	c, status, err := connectOver(t, pods[0], w.ca.tlsConfig(identity("shop", "a")), b.Addresses[0], netip.AddrPortFrom(b.Addresses[0], 8080).String())
	if err != nil || status != 200 {
		t.Fatal(status, err)
	}
	var before string
	for range 3 {
		status, body, err := c.get("GET", "/")
		if err != nil || status != 200 {
			t.Fatal(status, err)
		}
		from, _, _ := strings.Cut(body, "\n")
		if before != "" && from != before {
			t.Errorf("the app was asked %q, and then on another connection %q", before, from)
		}
		before = from
		time.Sleep(4 * forgetDestinations)
	}
}
