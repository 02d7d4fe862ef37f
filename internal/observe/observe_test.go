package observe

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func filter(t *testing.T, terms Terms) Filter {
	t.Helper()
	f, err := terms.Filter()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func flow(dst string) Flow {
	return Flow{Destination: Peer{Workload: dst}, Verdict: Forwarded, Layer: L4}
}

func TestListGivesTheLast(t *testing.T) {
	s := NewStore(3)
	if got := s.List(Filter{}, 0); len(got) != 0 {
		t.Fatalf("an empty store has %d flows", len(got))
	}
	for i := range 5 {
		s.Add(flow(fmt.Sprintf("ns/%d", i)))
	}
	for _, c := range []struct {
		limit int
		want  []uint64
	}{{0, []uint64{3, 4, 5}}, {2, []uint64{4, 5}}, {9, []uint64{3, 4, 5}}} {
		var got []uint64
		for _, e := range s.List(Filter{}, c.limit) {
			got = append(got, e.Flow.Seq)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("limit %d: flows %v, want %v", c.limit, got, c.want)
		}
	}
	if added := s.Count(); added != 5 {
		t.Errorf("added %d", added)
	}
}

// TestListMarksGaps: where flows were lost the list says so, also between flows that the filter does not take.
func TestListMarksGaps(t *testing.T) {
	s := NewStore(10)
	s.Add(flow("ns/a"))
	s.AddLost(2)
	s.Add(flow("ns/b"))
	s.AddLost(3)
	s.Add(flow("ns/a"))
	s.AddLost(4)
	s.AddLost(1)
	to := func(name string) Filter { return filter(t, Terms{To: []string{name}}) }
	for _, c := range []struct {
		filter Filter
		limit  int
		want   string
	}{
		{Filter{}, 0, "1 -2 2 -3 3 -5"},
		{Filter{}, 2, "-2 2 -3 3 -5"},
		{to("ns/a"), 0, "1 -5 3 -5"},
		{to("ns/b"), 0, "-2 2 -8"},
		{to("ns/c"), 0, "-10"},
	} {
		var got []string
		for _, e := range s.List(c.filter, c.limit) {
			if e.Flow != nil {
				got = append(got, fmt.Sprint(e.Flow.Seq))
			} else {
				got = append(got, fmt.Sprintf("-%d", e.Lost))
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("filter %+v, limit %d: %v, want %s", c.filter, c.limit, got, c.want)
		}
	}
}

// TestNothingIsLostSilently lets a reader fall behind: what it got and what it was told of make up all.
func TestNothingIsLostSilently(t *testing.T) {
	s := NewStore(4)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := s.Follow(ctx, Filter{})
	for range 10 {
		s.Add(flow("ns/a"))
	}
	s.AddLost(7)
	s.AddLost(0)
	var got, lost uint64
	for e := range events {
		lost += e.Lost
		if e.Flow != nil {
			got++
		}
		if got+lost == 17 {
			break
		}
	}
	if got != 4 || lost != 13 {
		t.Errorf("got %d and heard of %d lost, want 4 and 13", got, lost)
	}
}

func TestReadersAndWriters(t *testing.T) {
	s := NewStore(16)
	const writers, each = 4, 2000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers, adding sync.WaitGroup
	for range 3 {
		events := s.Follow(ctx, filter(t, Terms{Verdict: []string{"forwarded"}}))
		readers.Go(func() {
			var sum, last uint64
			for e := range events {
				if e.Flow != nil {
					if e.Flow.Seq <= last {
						t.Errorf("flow %d after %d", e.Flow.Seq, last)
					}
					last = e.Flow.Seq
					sum++
				}
				if sum += e.Lost; sum == writers*each {
					return
				}
			}
		})
	}
	for range writers {
		adding.Go(func() {
			for range each {
				s.Add(flow("ns/a"))
			}
		})
	}
	adding.Wait()
	readers.Wait()
}

func TestFollowEndsWithItsContext(t *testing.T) {
	s := NewStore(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range s.Follow(ctx, Filter{}) {
		t.Fatal("an event without a flow")
	}
}

func TestResolver(t *testing.T) {
	st := state.New(state.NewDB())
	w := st.Write(st.Workloads, st.Services)
	at := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	st.Workloads.Put(w, &model.Workload{Namespace: "a", Name: "one", Addresses: at("10.0.0.1", "fd00::1")})
	st.Workloads.Put(w, &model.Workload{Namespace: "a", Name: "host-1", Addresses: at("192.0.2.1")})
	st.Workloads.Put(w, &model.Workload{Namespace: "a", Name: "host-2", Addresses: at("192.0.2.1")})
	st.Services.Put(w, &model.Service{Namespace: "a", Name: "web", Addresses: at("10.96.0.1"), Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	st.Services.Put(w, &model.Service{Namespace: "a", Name: "ext-80", Addresses: at("192.0.2.9"), Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	st.Services.Put(w, &model.Service{Namespace: "a", Name: "ext-90", Addresses: at("192.0.2.9"), Ports: []model.ServicePort{{Port: 90, Protocol: model.TCP}}})
	w.Commit()
	r := NewResolver(st)
	for _, c := range []struct{ addr, want string }{
		{"10.0.0.1:80", "a/one:80"},
		{"[::ffff:10.0.0.1]:80", "a/one:80"},
		{"[fd00::1]:80", "a/one:80"},
		{"192.0.2.1:80", "192.0.2.1:80"}, // two pods of the host's network
		{"10.96.0.1:80", "a/web:80"},
		{"10.96.0.1:81", "a/web:81"},
		{"192.0.2.9:90", "a/ext-90:90"}, // a shared address
		{"192.0.2.9:91", "192.0.2.9:91"},
		{"203.0.113.1:5", "203.0.113.1:5"},
	} {
		if got := r.Peer(netip.MustParseAddrPort(c.addr)).String(); got != c.want {
			t.Errorf("%s is %s, want %s", c.addr, got, c.want)
		}
	}
	if got := (Peer{}).String(); got != "unknown" {
		t.Errorf("nothing known: %q", got)
	}
}
