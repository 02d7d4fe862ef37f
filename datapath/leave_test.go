package datapath

import (
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// TestARenamedPodStaysClosed: a pod that is renamed in a folder goes before it comes back, in the same network namespace.
// Between the two nobody may connect who could not before.
func TestARenamedPodStaysClosed(t *testing.T) {
	const path = "/run/netns/p"
	for _, tt := range []struct {
		name   string
		mode   model.MTLSMode
		policy *model.Policy
		closed bool
	}{
		{"strict", model.MTLSStrict, nil, true},
		{"with a policy", model.MTLSDisabled, &model.Policy{Names: []string{"ns/p"}}, true},
		{"open", model.MTLSPermissive, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeNode(t)
			f.leaveTimeout = time.Hour
			f.restart()
			workload := func(name, netns string) *model.Workload {
				return &model.Workload{
					Namespace: "ns", Name: name, Local: true, NetNS: netns, Addresses: testenv.Addrs("10.0.0.1"), MTLS: tt.mode, Policy: tt.policy,
				}
			}
			attached := func() (uint32, bool) {
				for cookie, at := range f.space.live {
					if at == path {
						return f.kern.pods.entries[cookie], true
					}
				}
				return 0, false
			}
			write(f, f.st.Workloads, workload("a", path))
			f.apply()
			before, ok := attached()
			if !ok {
				t.Fatal("the workload did not join")
			}
			w := f.st.Write(f.st.Workloads)
			f.st.Workloads.Delete(w, "ns/a")
			f.st.Workloads.Put(w, workload("b", "")) // its placement is not known yet
			w.Commit()
			f.apply()
			if flags, ok := attached(); ok != tt.closed || ok && flags != before {
				t.Errorf("between the two: attached %t with flags %d, want %t with %d", ok, flags, tt.closed, before)
			}
			write(f, f.st.Workloads, workload("b", path))
			if faults := f.apply(); len(faults) > 0 {
				t.Errorf("faults %v", faults)
			}
			if flags, ok := attached(); !ok || flags != before {
				t.Errorf("under the new name: attached %t with flags %d, want %d", ok, flags, before)
			}
			if l := f.rec.workloads.local; len(l) != 1 || l["ns/b"] == nil {
				t.Errorf("local workloads are %v", l)
			}
		})
	}
}

// TestAGoneWorkloadLeaves: nobody gets its network namespace, which is opened in the end.
func TestAGoneWorkloadLeaves(t *testing.T) {
	f := newFakeNode(t)
	f.leaveTimeout = 50 * time.Millisecond
	f.restart()
	write(f, f.st.Workloads, &model.Workload{Namespace: "ns", Name: "a", Local: true, NetNS: "/run/netns/a", MTLS: model.MTLSStrict})
	defer f.run()()
	live := func() int {
		f.space.mu.Lock()
		defer f.space.mu.Unlock()
		return len(f.space.live)
	}
	eventually(t, "it joins", func() bool { return live() == 1 })
	w := f.st.Write(f.st.Workloads)
	f.st.Workloads.Delete(w, "ns/a")
	w.Commit()
	eventually(t, "it leaves", func() bool { return live() == 0 })
}
