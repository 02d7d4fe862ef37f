package datapath

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// datagramIn is a connected UDP socket in the namespace at a path, with a number of its own.
func datagramIn(f *fakeNode, path string, number uint64, service, backend string) datagram {
	f.t.Helper()
	ns, err := f.space.Open(path)
	if err != nil {
		f.t.Fatal(err)
	}
	d := datagram{netns: ns.Cookie(), service: ap(service), backend: ap(backend)}
	d.socket.Cookie = number
	return d
}

// datagrams lists the numbers of the sockets that are left.
func (f *fakeNode) datagrams() []uint64 {
	f.space.mu.Lock()
	defer f.space.mu.Unlock()
	var out []uint64
	for _, d := range f.space.datagrams {
		out = append(out, d.socket.Cookie)
	}
	slices.Sort(out)
	return out
}

func TestStrayDatagrams(t *testing.T) {
	const one, pod = "10.96.0.1:80", "/run/netns/a"
	b1, b2 := "10.0.0.1:53", "10.0.0.2:53"
	for name, tt := range map[string]struct {
		change func(f *fakeNode)
		left   []uint64
	}{
		"nothing":         {func(*fakeNode) {}, []uint64{1, 2, 3, 4}},
		"a backend comes": {func(f *fakeNode) { write(f, f.st.Endpoints, eps("s", model.UDP, b1, b2, "10.0.0.3:53")) }, []uint64{1, 2, 3, 4}},
		"a backend goes":  {func(f *fakeNode) { write(f, f.st.Endpoints, eps("s", model.UDP, b2)) }, []uint64{2}},
		"all go":          {func(f *fakeNode) { write(f, f.st.Endpoints, eps("s", model.UDP)) }, nil},
		"a backend terminates": {func(f *fakeNode) {
			e := eps("s", model.UDP, b1, b2)
			e.Backends[0].Terminating = true
			write(f, f.st.Endpoints, e)
		}, []uint64{1, 2, 3, 4}},
		"the Service goes": {func(f *fakeNode) {
			w := f.st.Write(f.st.Services)
			f.st.Services.Delete(w, "ns/s")
			w.Commit()
		}, nil},
		"its address goes": {func(f *fakeNode) { write(f, f.st.Services, svc("s", "10.96.0.2", model.UDP, 0)) }, nil},
		"its port is TCP":  {func(f *fakeNode) { write(f, f.st.Services, svc("s", "10.96.0.1", model.TCP, 0)) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeNode(t)
			f.rec.synced = true
			write(f, f.st.Workloads, &model.Workload{Namespace: "ns", Name: "a", Addresses: testenv.Addrs("10.0.0.9"), Local: true, NetNS: pod})
			write(f, f.st.Services, svc("s", "10.96.0.1", model.UDP, 0))
			write(f, f.st.Endpoints, eps("s", model.UDP, b1, b2))
			f.apply()
			f.space.datagrams = []datagram{
				datagramIn(f, pod, 1, one, b1), datagramIn(f, pod, 2, one, b2), datagramIn(f, hostNamespace, 3, one, b1),
			}
			elsewhere := datagramIn(f, "/run/netns/elsewhere", 4, one, b1)
			f.space.datagrams = append(f.space.datagrams, elsewhere)
			tt.change(f)
			if faults := f.apply(); len(faults) > 0 {
				t.Errorf("faults: %v", faults)
			}
			want := tt.left
			if !slices.Contains(want, 4) {
				want = append(slices.Clone(want), 4) // nobody can enter that namespace
			}
			if got := f.datagrams(); !slices.Equal(got, want) {
				t.Errorf("sockets %v are left, want %v", got, want)
			}
		})
	}
}

// failToEnd makes the next attempts to end sockets fail.
func (f *fakeNode) failToEnd(err error) {
	f.space.mu.Lock()
	defer f.space.mu.Unlock()
	f.space.end = err
}

// TestStrayDatagramsThatCannotBeEnded: the fault is the workload's, until they are ended or have their backend again.
func TestStrayDatagramsThatCannotBeEnded(t *testing.T) {
	const pod = "/run/netns/a"
	broken := errors.New("broken")
	for name, mend := range map[string]func(f *fakeNode){
		"ended later":       func(f *fakeNode) { f.failToEnd(nil) },
		"the backend again": func(f *fakeNode) { write(f, f.st.Endpoints, eps("s", model.UDP, "10.0.0.1:53")) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeNode(t)
			write(f, f.st.Workloads, &model.Workload{Namespace: "ns", Name: "a", Addresses: testenv.Addrs("10.0.0.9"), Local: true, NetNS: pod})
			write(f, f.st.Services, svc("s", "10.96.0.1", model.UDP, 0))
			f.apply()
			f.space.datagrams = []datagram{datagramIn(f, pod, 1, "10.96.0.1:80", "10.0.0.1:53"), datagramIn(f, hostNamespace, 2, "10.96.0.1:80", "10.0.0.1:53")}
			f.failToEnd(broken)
			if faults := f.apply(); len(faults) > 0 || len(f.datagrams()) != 2 {
				t.Fatalf("before the tables hold everything: faults %v, sockets %v", faults, f.datagrams())
			}
			stop := f.run()
			defer stop()
			f.st.MarkSynced()
			eventually(t, "the workload and the node are reported", func() bool {
				faults := f.faults()
				return strings.Contains(faults["workload/ns/a"], "broken") && strings.Contains(faults["node/datagrams"], "broken")
			})
			mend(f)
			eventually(t, "nothing is reported", func() bool { return len(f.faults()) == 0 })
		})
	}
}
