package api

import (
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// TestTunnelFault: what weft status says of weft tunnel names what to look at.
func TestTunnelFault(t *testing.T) {
	running := &model.TunnelProcess{PID: 7, Error: "it ended after 1s"}
	for name, tc := range map[string]struct {
		off     bool
		carried []*model.Carried
		process *model.TunnelProcess
		want    string
	}{
		"not used":            {off: true},
		"none configured":     {want: "--tunnel=false"},
		"it ended":            {process: &model.TunnelProcess{Error: "it ended after 1s: panic"}, want: "it ended after 1s: panic"},
		"not started":         {process: &model.TunnelProcess{}, want: "not started"},
		"not connected":       {process: &model.TunnelProcess{PID: 7}, want: "pid 7"},
		"it works again":      {carried: []*model.Carried{{Subject: model.Tunnel}}, process: running},
		"a pod without it":    {carried: []*model.Carried{{Subject: model.Tunnel}, {Subject: model.Subject{Kind: model.SubjectWorkload, Name: "ns/pod"}, Error: "port taken"}}, process: running, want: "ns/pod cannot be reached by it: port taken"},
		"a pod with its port": {carried: []*model.Carried{{Subject: model.Tunnel}, {Subject: model.Subject{Kind: model.SubjectWorkload, Name: "ns/pod"}, Error: "port taken", PortTaken: true}}, process: running},
	} {
		s := newSound()
		w := s.st.Write(s.st.Carried, s.st.Proxies)
		for _, c := range tc.carried {
			s.st.Carried.Put(w, c)
		}
		s.st.Proxies.Put(w, &model.Proxy{State: "LIVE", Tunnel: tc.process})
		w.Commit()
		n := s.node()
		n.Tunnel = !tc.off
		if got := strings.Join(NewStatus(n, time.Now()).Faults, "; "); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestPartsAreRows: what the source, the CNI plugin's installer and weft proxy report is read from the same snapshot as all
// else.
func TestPartsAreRows(t *testing.T) {
	s := newSound()
	w := s.st.Write(s.st.CNI, s.st.Proxies, s.st.Accepted)
	s.st.CNI.Put(w, &model.CNI{Problems: []string{"the folder cannot be read"}})
	s.st.Proxies.Put(w, &model.Proxy{State: "LIVE", Overload: []string{"stop_accepting_requests"}})
	s.st.Accepted.Delete(w, model.Envoy.Key())
	w.Commit()
	st := NewStatus(s.node(), time.Now())
	got := strings.Join(st.Faults, "\n")
	for _, want := range []string{"CNI: the folder cannot be read", "no stream to the agent", "stop_accepting_requests"} {
		if !strings.Contains(got, want) {
			t.Errorf("faults %q, want one with %q", got, want)
		}
	}
	if st.Folder.Loaded {
		t.Error("objects that were never read count as read")
	}
}

// TestPortTaken: a pod that has a port of weft tunnel is named among the objects with problems.
func TestPortTaken(t *testing.T) {
	s := newSound()
	w := s.st.Write(s.st.Carried, s.st.Workloads)
	s.st.Workloads.Put(w, &model.Workload{Namespace: "ns", Name: "pod", Local: true})
	s.st.Carried.Put(w, &model.Carried{Subject: model.Subject{Kind: model.SubjectWorkload, Name: "ns/pod"}, Error: "listen: in use", PortTaken: true})
	w.Commit()
	st := NewStatus(s.node(), time.Now())
	want := Trouble{
		Object: model.ObjectRef{Kind: "Pod", Namespace: "ns", Name: "pod"}, Type: "Programmed", Reason: "PortUnavailable",
		Message: "weft tunnel takes no connections there: listen: in use",
	}
	if !st.Healthy || len(st.Troubles) != 1 || st.Troubles[0] != want {
		t.Errorf("healthy %t, troubles %+v", st.Healthy, st.Troubles)
	}
}
