package traffic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// counted is what the tests' Envoy answers.
type counted struct {
	stats model.RequestStats
	err   error
}

func (c *counted) ask(context.Context) (*model.RequestStats, error) {
	if c.err != nil {
		return nil, c.err
	}
	s := c.stats
	s.Counters, s.Durations, s.Completed = maps.Clone(s.Counters), maps.Clone(s.Durations), maps.Clone(s.Completed)
	return &s, nil
}

func newRequests(st *state.State) (*Requests, *counted) {
	c := &counted{stats: model.RequestStats{Counters: map[string]uint64{}, Durations: map[string]model.DurationStats{}, Completed: map[string]uint64{}}}
	return NewRequests(st, c.ask), c
}

const (
	webID = "spiffe://td/ns/shop/sa/web"
	dbID  = "spiffe://td/ns/bank/sa/db"
	tags  = "|by.source.|own.shop/Deployment/web.v1 " + webID + ".|addr.10.96.0.1:80.|peer.bank/StatefulSet/db " + dbID + ".|cluster.service/bank/db/80"
	ok    = "weft.requests." + tags + ".|code.200.|flags.-.|grpc"
)

func line(labels string, protocol, verdict, class, grpc string, n int) string {
	return fmt.Sprintf("weft_requests_total{%s} %d\n", fmt.Sprintf(labels, grpc, protocol, class, verdict), n)
}

func compare(t *testing.T, r *Requests, lines ...string) {
	t.Helper()
	want := "# HELP weft_requests_total " + requestsTotal.Help + "\n# TYPE weft_requests_total counter\n" + strings.Join(lines, "")
	if err := testutil.CollectAndCompare(r, strings.NewReader(want), requestsTotal.Name); err != nil {
		t.Error(err)
	}
}

const webToDB = `destination_identity="` + dbID + `",destination_kind="StatefulSet",destination_namespace="bank",destination_service="db",destination_service_namespace="bank",destination_workload="db",grpc_status=%q,mtls="true",protocol=%q,reporter="source",response_class=%q,source_identity="` + webID + `",source_kind="Deployment",source_namespace="shop",source_workload="web.v1",verdict=%q`

// TestRequestsGoOn: what Envoy forgets, or starts anew, does not make a count go back.
func TestRequestsGoOn(t *testing.T) {
	r, envoy := newRequests(tables())
	envoy.stats.Counters[ok] = 5
	envoy.stats.Counters["weft.requests."+tags+".|code.201.|flags.-.|grpc."] = 2
	envoy.stats.Counters["weft.requests."+tags+".|code.0.|flags.DC.|grpc."] = 1
	envoy.stats.Counters["weft.requests."+tags+".|code.200.|flags.-.|grpc.14"] = 3
	rest := []string{
		line(webToDB, "http", "failed", "none", "", 1), line(webToDB, "grpc", "forwarded", "2xx", "14", 3),
	}
	compare(t, r, append(rest, line(webToDB, "http", "forwarded", "2xx", "", 7))...)
	envoy.stats.Counters[ok] = 9
	compare(t, r, append(rest, line(webToDB, "http", "forwarded", "2xx", "", 11))...)
	clear(envoy.stats.Counters) // forgotten
	compare(t, r, append(rest, line(webToDB, "http", "forwarded", "2xx", "", 11))...)
	envoy.stats.Counters[ok] = 1
	compare(t, r, append(rest, line(webToDB, "http", "forwarded", "2xx", "", 12))...)
	envoy.err = errors.New("no Envoy")
	compare(t, r, append(rest, line(webToDB, "http", "forwarded", "2xx", "", 12))...)
}

// TestRequestEnds: who is at an address, and what is known where there was no endpoint.
func TestRequestEnds(t *testing.T) {
	st := tables()
	tx := st.Write(st.Workloads, st.Services)
	st.Workloads.Put(tx, &model.Workload{
		Namespace: "shop", Name: "web-1", Owner: model.Owner{Kind: "Deployment", Name: "web"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
	})
	st.Services.Put(tx, &model.Service{Namespace: "bank", Name: "db", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}})
	tx.Commit()
	r, _ := newRequests(st)
	web := End{Namespace: "shop", Owner: model.Owner{Kind: "Deployment", Name: "web"}}
	db := End{Namespace: "bank", Owner: model.Owner{Kind: "StatefulSet", Name: "db"}}
	proven := func(e End, id model.Identity) End { e.Identity = id; return e }
	for name, want := range map[string]Labels{
		"|by.source.|own.shop/Deployment/web " + webID + ".|addr.10.96.0.1:80.|peer..|cluster.":                                     {Reporter: AtSource, Source: web, Service: "bank/db"},
		"|by.source.|own.shop/Deployment/web " + webID + ".|addr.10.96.0.1:80.|peer.bank/StatefulSet/db.|cluster.service/bank/x/80": {Reporter: AtSource, Source: web, Destination: db, Service: "bank/x"},
		"|by.gateway.|own.shop/Gateway/edge.|peer.bank/StatefulSet/db.|cluster.service/bank/db/80|plain": {
			Reporter: AtGateway, Source: End{Namespace: "shop", Owner: model.Owner{Kind: "Gateway", Name: "edge"}}, Destination: db, Service: "bank/db",
		},
		"|by.destination.|own.bank/StatefulSet/db " + dbID + ".|addr.10.0.0.1.|peer." + webID: {
			Reporter: AtDestination, Source: proven(web, webID), Destination: proven(db, dbID), MTLS: true,
		},
		"|by.destination.|own.bank/StatefulSet/db " + dbID + ".|addr.10.0.0.1.|peer.": {Reporter: AtDestination, Source: web, Destination: db},
		"|by.destination.|own.bank/StatefulSet/db " + dbID + ".|addr.10.0.0.9.|peer." + webID: {
			Reporter: AtDestination, Source: End{Namespace: "shop", Identity: webID}, Destination: proven(db, dbID), MTLS: true,
		},
	} {
		parsed, parsedOK := parseName("weft.requests."+name, model.RequestCounter)
		got, labelled := r.labels(parsed)
		if !parsedOK || !labelled || got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	r, envoy := newRequests(tables())
	name := "weft.duration." + tags
	cumulative := func(n ...uint64) []uint64 {
		for len(n) < len(model.DurationBuckets)+1 {
			n = append(n, n[len(n)-1])
		}
		return n
	}
	check := func(count, first uint64, sum float64) {
		t.Helper()
		if err := r.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, s := range r.sets.kept {
			n := uint64(0)
			for _, b := range s.counts.duration.counts {
				n += b
			}
			if h := s.counts.duration; n != count || h.counts[0] != first || h.sum != sum {
				t.Errorf("%+v, want %d requests, %d of them quick, in %g", h, count, first, sum)
			}
		}
	}
	envoy.stats.Durations[name] = model.DurationStats{Cumulative: cumulative(2, 3), Sum: 1500}
	check(3, 2, 1500)
	check(3, 2, 1500)
	envoy.stats.Durations[name] = model.DurationStats{Cumulative: cumulative(3, 5, 6), Sum: 5000}
	check(6, 3, 5000)
	envoy.stats.Durations[name] = model.DurationStats{Cumulative: cumulative(1), Sum: 100} // a new Envoy
	check(7, 4, 5100)
	if n := testutil.CollectAndCount(r, requestSeconds.Name); n != 1 {
		t.Errorf("%d series", n)
	}
}

// TestRequestOverflow: what an Envoy has no room for is counted, once a limit is reached and not before.
func TestRequestOverflow(t *testing.T) {
	r, envoy := newRequests(tables())
	r.sets = newSets[requests](10*model.MaxRequestCounters, 10*model.MaxRequestCounters)
	overflow := func() (n uint64) {
		t.Helper()
		if err := r.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
		for l, s := range r.sets.kept {
			if l.Source.Namespace == Overflow {
				for _, c := range s.counts.outcomes {
					n += c
				}
			}
		}
		return n
	}
	envoy.stats.Completed["out-http"] = 1000
	if n := overflow(); n != 0 { // before this agent
		t.Error(n)
	}
	envoy.stats.Completed["out-http"] += 10
	if n := overflow(); n != 0 { // there was room
		t.Error(n)
	}
	for i := range model.MaxRequestCounters {
		envoy.stats.Counters[strings.Replace(ok, "bank/db/80", fmt.Sprintf("bank/s%d/80", i), 1)] = 1
	}
	envoy.stats.Completed["out-http"] += model.MaxRequestCounters - 3 // three end just now
	if n := overflow(); n != 0 {
		t.Error(n)
	}
	envoy.stats.Completed["out-http"] += 3 + 7
	if n := overflow(); n != 7 {
		t.Errorf("%d, want 7", n)
	}
}

// TestOutcomesAreBounded: an application chooses its codes.
func TestOutcomesAreBounded(t *testing.T) {
	r, envoy := newRequests(tables())
	for code := range 500 {
		envoy.stats.Counters[strings.Replace(ok, "code.200", fmt.Sprint("code.", 100+code), 1)] = 1
	}
	if err := r.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.sets.kept {
		var sum uint64
		for _, n := range s.counts.outcomes {
			sum += n
		}
		if len(s.counts.outcomes) != MaxOutcomes+1 || sum != 500 {
			t.Errorf("%d outcomes of %d requests", len(s.counts.outcomes), sum)
		}
	}
}

// Values of tags come from Envoy, and some of them from what a peer said.
func FuzzRequestNames(f *testing.F) {
	f.Add(ok, uint64(1))
	f.Add("weft.duration."+tags, uint64(1))
	f.Add("weft.requests.|by.destination.|own.a/b/c.|addr.::1.|peer.x.|code.99999.|policy.denied", uint64(2))
	f.Add("weft.requests.|", uint64(2))
	st := tables()
	f.Fuzz(func(t *testing.T, name string, n uint64) {
		r, envoy := newRequests(st)
		envoy.stats.Counters[name] = n
		envoy.stats.Durations[name] = model.DurationStats{Cumulative: make([]uint64, len(model.DurationBuckets)+1), Sum: float64(n)}
		for range 2 {
			if err := r.Update(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for l, s := range r.sets.kept {
			if l.Reporter != AtSource && l.Reporter != AtDestination && l.Reporter != AtGateway {
				t.Errorf("%q: reporter %q", name, l.Reporter)
			}
			for o, c := range s.counts.outcomes {
				if c != n || len(o.code) > len(Overflow) {
					t.Errorf("%q: %+v is %d, want %d", name, o, c, n)
				}
			}
		}
		r.metrics()
	})
}
