package proxy

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"
)

// A worker makes its part of a cluster when it first sends a request there.
func TestClustersAreMadeByWorkersThatUseThem(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	h := newHoard(n, "0s")
	amend := n.cfg.amend
	n.cfg.amend = func(b map[string]any) {
		amend(b)
		delete(b["stats_config"].(object), "stats_matcher")
	}
	n.run(n.cfg)
	n.untilLive()
	const worker = "thread_local_cluster_manager.worker_0.clusters_inflated"
	inflated := func() uint64 {
		t.Helper()
		counters, err := n.client().Counters(context.Background(), "^cluster_manager.active_clusters$|^"+worker+"$")
		if err != nil || counters["cluster_manager.active_clusters"] == 0 {
			t.Fatalf("counters %v, %v", counters, err)
		}
		return counters[worker]
	}
	if got := inflated(); got != 0 {
		t.Errorf("the worker has %d clusters before the first request", got)
	}
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	h.keep(c)
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
	for deadline := time.Now().Add(30 * time.Second); inflated() != 1; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the worker has %d clusters after a request to one", inflated())
		}
	}
}
