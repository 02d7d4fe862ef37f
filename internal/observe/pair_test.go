package observe

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// bothEnds are the reports of one connection.
func bothEnds() (source, destination *Flow) {
	f := Flow{
		Time: time.Unix(1900000000, 0), Duration: time.Second, Protocol: model.TCP, Layer: MTLS, Verdict: Forwarded, SeenAt: AtSource,
		Source:      Peer{Address: netip.MustParseAddrPort("10.0.0.1:40000"), Workload: "shop/app"},
		Destination: Peer{Address: netip.MustParseAddrPort("10.0.0.2:8080"), Workload: "shop/web"},
	}
	g := f
	g.SeenAt = AtDestination
	return &f, &g
}

func TestPairs(t *testing.T) {
	for name, c := range map[string]struct {
		change func(source, destination *Flow)
		pair   bool
	}{
		"both ends":                      {func(_, _ *Flow) {}, true},
		"one ends later than the other":  {func(_, d *Flow) { d.Time, d.Duration = d.Time.Add(time.Hour), d.Duration+time.Hour }, true},
		"the nodes' clocks differ":       {func(_, d *Flow) { d.Time = d.Time.Add(3 * time.Second) }, true},
		"the port is used again":         {func(_, d *Flow) { d.Time = d.Time.Add(time.Minute) }, false},
		"one end":                        {func(_, d *Flow) { d.SeenAt = AtSource }, false},
		"another port":                   {func(_, d *Flow) { d.Source.Address = netip.MustParseAddrPort("10.0.0.1:40001") }, false},
		"one has begun, the other ended": {func(_, d *Flow) { d.Open = true }, false},
		"another layer":                  {func(_, d *Flow) { d.Layer = L4 }, false},
		"requests share a connection":    {func(s, d *Flow) { s.HTTP, d.HTTP = &Request{}, &Request{} }, false},
		"loopback is everybody's":        {func(s, d *Flow) { s.Source.Address = netip.MustParseAddrPort("127.0.0.1:1"); d.Source = s.Source }, false},
		"the port is not known":          {func(s, d *Flow) { s.Source.Address = netip.MustParseAddrPort("10.0.0.1:0"); d.Source = s.Source }, false},
		"who it is from is not known":    {func(s, d *Flow) { s.Source.Workload, d.Source.Workload = "", "" }, false},
		"by HBONE, with the port of a TLS connection at one end": {func(s, d *Flow) {
			s.Stream, d.Stream = "a", "a"
			d.Source.Address = netip.MustParseAddrPort("10.0.0.1:50000")
		}, true},
		"by HBONE, where the source's port is not known": {func(s, d *Flow) {
			s.Stream, d.Stream = "a", "a"
			s.Source.Address = netip.MustParseAddrPort("10.0.0.1:0")
		}, true},
		"two by HBONE in one TLS connection": {func(s, d *Flow) { s.Stream, d.Stream = "a", "b" }, false},
		"by HBONE, from another pod than it claims": {func(s, d *Flow) {
			s.Stream, d.Stream = "a", "a"
			d.Source.Address = netip.MustParseAddrPort("10.0.0.9:1")
		}, false},
		"another question": {func(s, d *Flow) { s.DNS, d.DNS = &DNS{Name: "a", Type: "A"}, &DNS{Name: "a", Type: "AAAA"} }, false},
		"one question": {func(s, d *Flow) {
			s.DNS, d.DNS = &DNS{Name: "a", Type: "A"}, &DNS{Name: "a", Type: "A", Code: "NOERROR"}
		}, true},
	} {
		s, d := bothEnds()
		c.change(s, d)
		a, ok := s.Key()
		b, ok2 := d.Key()
		if got := ok && ok2 && a == b && s.PairOf(d) && d.PairOf(s); got != c.pair {
			t.Errorf("%s: %v, want %v", name, got, c.pair)
		}
	}
}

// TestJoined: what one end does not know is taken from the other, whichever came first.
func TestJoined(t *testing.T) {
	s, d := bothEnds()
	s.Destination.Service, s.Retransmits, s.RTT, s.Reason, s.Verdict = "shop/web", 1, time.Millisecond, "no policy of the destination allows it", Refused
	d.Source.Identity, d.Source.Labels, d.Retransmits, d.Received = "spiffe://a", map[string]string{"app": "app"}, 2, 7
	d.Verdict, d.Reason, d.Policies = Refused, "no policy allows it", []string{"shop/web"}
	for _, f := range []*Flow{Joined(s, d), Joined(d, s)} {
		if f.SeenAt != AtBoth || f.Destination.Service != "shop/web" || f.Source.Identity != "spiffe://a" || f.Source.Labels["app"] != "app" ||
			f.Retransmits != 3 || f.RTT != time.Millisecond || f.Received != 7 || f.Reason != d.Reason || !slices.Equal(f.Policies, d.Policies) {
			t.Errorf("%+v", f)
		}
	}
	if s.SeenAt != AtSource || s.Source.Identity != "" {
		t.Errorf("the report of the source has changed: %+v", s)
	}
	s, d = bothEnds()
	s.Verdict, s.Reason = Failed, "never established"
	if f := Joined(s, d); f.Verdict != Failed || f.Reason != s.Reason {
		t.Errorf("failed at the source alone: %+v", f)
	}
}

// TestJoinEnds: each report is joined with that of the other end, and no other.
func TestJoinEnds(t *testing.T) {
	s, d := bothEnds()
	again, request := *d, *s
	again.Time = again.Time.Add(time.Hour) // the port is used again
	request.HTTP = &Request{}
	got := JoinEnds([]Flow{*d, request, *s, again, *s})
	var at []Side
	for _, f := range got {
		at = append(at, f.SeenAt)
	}
	if want := []Side{AtBoth, AtSource, AtDestination, AtSource}; !slices.Equal(at, want) {
		t.Errorf("%v, want %v", at, want)
	}
	if len(JoinEnds(nil)) != 0 {
		t.Error("something comes of nothing")
	}
}
