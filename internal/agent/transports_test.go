package agent

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func TestAcceptedTransports(t *testing.T) {
	st := state.New(state.NewDB())
	a := &accepting{st: st}
	connect := func(connected bool) {
		w := st.Write(st.Accepted)
		defer w.Commit()
		if connected {
			st.Accepted.Put(w, &model.Accepted{Subject: model.Envoy})
		} else {
			st.Accepted.Delete(w, model.Envoy.Key())
		}
	}
	pod := &model.Workload{Namespace: "ns", Name: "pod", Local: true}
	put := func(revision uint64) {
		w := st.Write(st.Workloads, st.Accepted)
		defer w.Commit()
		st.Workloads.Put(w, pod)
		st.Accepted.Put(w, &model.Accepted{Subject: model.Subject{Kind: model.SubjectWorkload, Name: pod.Key()}, Revision: revision})
	}
	if a.accepted() != nil {
		t.Error("without Envoy")
	}
	connect(true)
	put(0)
	if a.accepted() != nil {
		t.Error("Envoy has not accepted the workload's listeners")
	}
	_, revision, _ := st.Workloads.Revision(st.Snapshot(), pod.Key())
	put(revision)
	if got := a.accepted(); !slices.Equal(got, transports) {
		t.Errorf("Envoy has accepted all, and the node takes %v", got)
	}
	connect(false)
	put(0)
	if a.accepted() == nil {
		t.Error("what was said holds while Envoy is replaced")
	}
	carry := func(c model.Carried) {
		c.Subject = model.Subject{Kind: model.SubjectWorkload, Name: pod.Key()}
		w := st.Write(st.Carried)
		defer w.Commit()
		st.Carried.Put(w, &c)
		st.Carried.Put(w, &model.Carried{Subject: model.Tunnel})
	}
	for _, tt := range []struct {
		carried model.Carried
		tunnel  bool
	}{
		{model.Carried{}, false},
		{model.Carried{Revision: 1}, true},
		{model.Carried{Revision: 1, Error: "no listener"}, false},
		{model.Carried{Revision: 2}, true},
	} {
		carry(tt.carried)
		if got := a.accepted(); slices.Contains(got, model.TransportTunnel) != tt.tunnel || !slices.Contains(got, model.TransportHBONE) || !slices.IsSorted(got) {
			t.Errorf("weft tunnel says %+v, and the node takes %v", tt.carried, got)
		}
	}
}

// A workload that weft tunnel cannot serve does not take the others from it.
func TestOneWorkloadIsNotCarried(t *testing.T) {
	st := state.New(state.NewDB())
	a := &accepting{st: st, known: true}
	w := st.Write(st.Carried)
	st.Carried.Put(w, &model.Carried{Subject: model.Tunnel})
	for name, c := range map[string]model.Carried{
		"ns/good": {Revision: 1}, "ns/new": {}, "ns/bad": {Error: "port 15009 is taken"}, "ns/worse": {Revision: 1, Error: "it has no namespace"},
	} {
		c.Subject = model.Subject{Kind: model.SubjectWorkload, Name: name}
		st.Carried.Put(w, &c)
	}
	w.Commit()
	if got := a.accepted(); !slices.Equal(got, withTunnel) {
		t.Errorf("the node takes %v", got)
	}
	w = st.Write(st.Carried)
	st.Carried.Delete(w, model.Tunnel.Key())
	w.Commit()
	if got := a.accepted(); !slices.Equal(got, transports) {
		t.Errorf("without weft tunnel the node takes %v", got)
	}
}

// The row of a node without others follows what the node takes.
func TestRowOfTheOnlyNode(t *testing.T) {
	st := state.New(state.NewDB())
	a := &accepting{st: st, known: true}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.write(ctx, "n") }()
	pod := model.Subject{Kind: model.SubjectWorkload, Name: "ns/pod"}
	for _, tunnel := range []bool{false, true, false, true} {
		w := st.Write(st.Carried)
		if tunnel {
			st.Carried.Put(w, &model.Carried{Subject: model.Tunnel})
			st.Carried.Put(w, &model.Carried{Subject: pod, Revision: 1})
		} else {
			st.Carried.Delete(w, model.Tunnel.Key())
			st.Carried.Delete(w, pod.Key())
		}
		w.Commit()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, there := st.Nodes.Get(st.Snapshot(), "n"); there && st.NodeAccepts(st.Snapshot(), "n", model.TransportTunnel) == tunnel {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("weft tunnel carries: %t, and the node's row does not say so", tunnel)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// An agent that takes less than this one gets the sockets after nobody sends by what it does not take.
func TestWithdrawnBeforeHandover(t *testing.T) {
	for name, tc := range map[string]struct {
		says     []model.Transport
		older    bool
		withdraw bool
	}{
		"an older agent":                       {says: []model.Transport{model.TransportHBONE, model.TransportHTTP}, older: true, withdraw: true},
		"an older agent, nothing to take back": {says: []model.Transport{model.TransportHBONE}, older: true},
		"the same version":                     {says: transports},
		"the same version, with weft tunnel":   {says: withTunnel},
	} {
		dir := t.TempDir()
		first := socketAgent(t, dir, false)
		first.transports, first.addrs = &accepting{st: first.st}, &addresses{}
		w := first.st.Write(first.st.Nodes)
		first.st.Nodes.Put(w, &model.Node{Name: first.cfg.Node, Accepts: tc.says})
		w.Commit()
		if err := first.listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		asked := make(chan error, 1)
		go func() { asked <- first.awaitSuccessor(t.Context()) }()
		c, err := net.Dial("unix", filepath.Join(dir, takeoverSocket))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if tc.older {
			_, err = c.Write([]byte(takeoverRequest))
		} else {
			err = sendRequest(c.(*net.UnixConn))
		}
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-asked:
		case <-time.After(withdrawTime + 5*time.Second):
			t.Fatalf("%s: it does not get the sockets", name)
		}
		_, says := first.st.Nodes.Get(first.st.Snapshot(), first.cfg.Node)
		if says == tc.withdraw {
			t.Errorf("%s: the node's row is there: %t", name, says)
		}
		_ = first.handover.close()
	}
}

// An older agent that is asked to hand over must read the request as ever, and nothing after it: it takes the next byte
// for the end of the next agent.
func TestOlderAgentReadsTheRequest(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	older, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer older.Close()
	if err := sendRequest(c.(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.UnixConn).CloseWrite()
	got := make([]byte, 64)
	n, err := older.Read(got)
	if err != nil || string(got[:n]) != takeoverRequest {
		t.Errorf("it reads %q, %v", got[:n], err)
	}
	if n, err := older.Read(got); n != 0 {
		t.Errorf("then %q, %v", got[:n], err)
	}
}
