package traffic

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// Requests counts HTTP requests: it adds what Envoy has counted since it was asked the last time. Envoy forgets a
// statistic that nothing was added to for long, and all of them when it is restarted; the counts here go on.
type Requests struct {
	st  *state.State
	ask func(context.Context) (*model.RequestStats, error)
	now func() time.Time

	updating chan struct{} // holds a value while Envoy is asked: two at once would count the same twice
	last     *model.RequestStats
	extra    map[string]int64 // by reporter: requests that were completed but not counted

	mu     sync.Mutex // guards sets and copies
	sets   *sets[requests]
	copies *sets[copies]
}

// requests are the counts of one set of labels.
type requests struct {
	outcomes map[outcome]uint64
	duration histogram // in microseconds
}

// outcome is what became of requests.
type outcome struct {
	protocol, verdict string
	code              string // "0" if there was no answer
	flags             string // Envoy's, "-" for none
	grpc              string // status by number, "" if the request was not gRPC
}

// overflowOutcome is that of requests for whose own there is no room.
var overflowOutcome = outcome{protocol: Overflow, verdict: Overflow, code: Overflow, flags: Overflow}

// NewRequests counts requests. ask asks the node's Envoy. st says who has an address.
func NewRequests(st *state.State, ask func(context.Context) (*model.RequestStats, error)) *Requests {
	return &Requests{st: st, ask: ask, now: time.Now, updating: make(chan struct{}, 1), extra: map[string]int64{}, sets: newSets[requests](MaxSets, MaxSetsPerNamespace), copies: newSets[copies](MaxSets, MaxSetsPerNamespace)}
}

// Update asks Envoy and counts what is new.
func (r *Requests) Update(ctx context.Context) error {
	select {
	case r.updating <- struct{}{}:
		defer func() { <-r.updating }()
	case <-ctx.Done():
		return ctx.Err()
	}
	now, err := r.ask(ctx)
	if err != nil {
		return err
	}
	first := r.last == nil
	if first {
		r.last = &model.RequestStats{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	counted, kept := map[string]uint64{}, map[string]int{} // by reporter; by reporter and namespace
	for name, n := range now.Counters {
		n = since(n, r.last.Counters[name])
		r.countCopies(name, n)
		if l, ok := r.count(name, n); ok {
			counted[l.Reporter] += n
			kept[l.Reporter+"/"+l.namespace()]++
		}
	}
	for name, d := range now.Durations {
		r.measure(name, d)
	}
	if !first { // what Envoy has forgotten before is not overflow
		r.countOverflow(now, counted, kept)
	}
	r.last = now
	return nil
}

// completedBy names the reporters of listeners by their prefixes of statistics in Envoy.
var completedBy = map[string]string{"out-http": AtSource, "gateway": AtGateway, "in-http": AtDestination}

// countOverflow counts the requests for which Envoy had no room. A request that ends while Envoy is asked may be in one of
// the two counts alone, so the difference is carried on, and means something only while a limit is reached.
func (r *Requests) countOverflow(now *model.RequestStats, counted map[string]uint64, kept map[string]int) {
	full := map[string]bool{}
	for key, n := range kept {
		reporter, _, _ := strings.Cut(key, "/")
		full[reporter] = full[reporter] || n >= model.MaxRequestCounters
	}
	for prefix, n := range now.Completed {
		reporter, ok := completedBy[prefix]
		if !ok {
			continue
		}
		extra := r.extra[reporter] + int64(since(n, r.last.Completed[prefix])) - int64(counted[reporter])
		switch {
		case !full[reporter]:
			extra = 0
		case extra > 0:
			l := Labels{Reporter: reporter}
			r.sets.at(l.overflow(), r.now()).add(overflowOutcome, uint64(extra))
			extra = 0
		}
		r.extra[reporter] = extra
	}
}

// since returns how much a counter has grown. One that is less than before has begun anew.
func since(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

func (r *Requests) count(name string, n uint64) (Labels, bool) {
	tags, ok := parseName(name, model.RequestCounter)
	if !ok {
		return Labels{}, false
	}
	l, ok := r.labels(tags)
	if ok && n > 0 {
		r.sets.at(l, r.now()).add(outcomeOf(tags), n)
	}
	return l, ok
}

func (c *requests) add(o outcome, n uint64) {
	if c.outcomes == nil {
		c.outcomes = map[outcome]uint64{}
	}
	if _, ok := c.outcomes[o]; !ok && len(c.outcomes) >= MaxOutcomes {
		o = overflowOutcome
	}
	c.outcomes[o] += n
}

func (r *Requests) measure(name string, d model.DurationStats) {
	before := r.last.Durations[name]
	bounds := model.DurationBuckets
	if len(d.Cumulative) != len(bounds)+1 {
		return
	}
	if len(before.Cumulative) != len(d.Cumulative) || before.Cumulative[len(bounds)] > d.Cumulative[len(bounds)] {
		before = model.DurationStats{Cumulative: make([]uint64, len(d.Cumulative))}
	}
	if before.Cumulative[len(bounds)] == d.Cumulative[len(bounds)] {
		return
	}
	tags, ok := parseName(name, model.RequestDuration)
	if !ok {
		return
	}
	l, ok := r.labels(tags)
	if !ok {
		return
	}
	h := &r.sets.at(l, r.now()).duration
	var below uint64
	for i, n := range d.Cumulative {
		upTo := since(n, before.Cumulative[i])
		h.add(bounds, i, since(upTo, below), 0)
		below = max(below, upTo)
	}
	h.sum += max(0, d.Sum-before.Sum)
}

// parseName reads the tags of a statistic of Envoy's. Values may hold dots; a tag begins with a bar.
func parseName(name, stat string) (map[string]string, bool) {
	rest, ok := strings.CutPrefix(name, model.RequestScope+"."+stat+".|")
	if !ok {
		return nil, false
	}
	tags := map[string]string{}
	for _, part := range strings.Split(rest, ".|") {
		tag, value, _ := strings.Cut(part, ".")
		tags["|"+tag] = value
	}
	return tags, true
}

// labels returns what a statistic is counted by.
func (r *Requests) labels(tags map[string]string) (Labels, bool) {
	l := Labels{Reporter: tags[model.TagReporter]}
	own, ownOK := endOf(tags[model.TagSource])
	if !ownOK {
		return l, false
	}
	resolve := observe.NewResolver(r.st)
	switch l.Reporter {
	case AtSource, AtGateway:
		peer, _ := endOf(tags[model.TagPeer])
		l.Source, l.Destination = own, peer
		if l.Service = serviceOf(tags[model.TagCluster]); l.Service == "" {
			if at, err := netip.ParseAddrPort(tags[model.TagAddress]); err == nil {
				l.Service = resolve.Peer(at).Service
			}
		}
	case AtDestination:
		l.Destination = own
		if at, err := netip.ParseAddr(tags[model.TagAddress]); err == nil {
			f := observe.Flow{Source: resolve.Peer(netip.AddrPortFrom(at, 0))}
			l.Source = labelsOf(r.st, &f).Source
		}
		l.Source.Identity = model.Identity(tags[model.TagPeer])
		if l.Source.Namespace == "" {
			l.Source.Namespace = l.Source.Identity.Namespace()
		}
	default:
		return l, false
	}
	// An identity that was not asked for was not proven.
	if l.MTLS = l.Source.Identity != "" && l.Destination.Identity != ""; !l.MTLS {
		l.Source.Identity, l.Destination.Identity = "", ""
	}
	return l, true
}

func endOf(tag string) (End, bool) {
	namespace, owner, id, ok := model.ParsePeerTag(tag)
	return End{Namespace: namespace, Owner: owner, Identity: id}, ok
}

// serviceOf returns the namespace/name of the Service of a cluster: service/<ns>/<name>/<port>...
func serviceOf(cluster string) string {
	parts := strings.Split(cluster, "/")
	if len(parts) < 4 || parts[0] != "service" {
		return ""
	}
	return parts[1] + "/" + parts[2]
}

// outcomeOf reads what became of requests. Flags of Envoy's say that it answered itself, or that nobody waited.
func outcomeOf(tags map[string]string) outcome {
	o := outcome{
		protocol: "http", verdict: string(observe.Forwarded),
		code: tags[model.TagCode], flags: tags[model.TagFlags], grpc: tags[model.TagGRPC],
	}
	if o.grpc != "" {
		o.protocol = "grpc"
	}
	if n, err := strconv.Atoi(o.code); err != nil || n < 100 || n > 999 {
		o.code = "0"
	}
	if o.flags == "" {
		o.flags = "-"
	}
	switch {
	case tags[model.TagPolicy] == "denied":
		o.verdict = string(observe.Refused)
	case o.flags != "-":
		o.verdict = string(observe.Failed)
	}
	return o
}

// class returns the class of a code, as in 5xx, or "none" without an answer.
func class(code string) string {
	if len(code) != 3 {
		if code == Overflow {
			return Overflow
		}
		return "none"
	}
	return code[:1] + "xx"
}
