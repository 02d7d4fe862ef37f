package load

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxErrors bounds how many kinds of errors a report tells apart.
const maxErrors = 20

// Report is the sum of a load's results.
type Report struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Statuses map[int]int    `json:"statuses"` // 0: no answer
	Backends map[string]int `json:"backends"` // of answers that did not fail
	Errors   map[string]int `json:"errors,omitempty"`
	// FirstFailure is the start of the first request that failed, LastFailure the end of the last one.
	FirstFailure time.Time       `json:"firstFailure,omitzero"`
	LastFailure  time.Time       `json:"lastFailure,omitzero"`
	First        time.Time       `json:"first"` // start of the first request
	Last         time.Time       `json:"last"`  // end of the last one
	latencies    []time.Duration // of answers
	sorted       bool
}

func newReport() *Report {
	return &Report{Statuses: map[int]int{}, Backends: map[string]int{}, Errors: map[string]int{}}
}

func (r *Report) add(res Result) {
	end := res.Start.Add(res.Took)
	if r.Requests == 0 || res.Start.Before(r.First) {
		r.First = res.Start
	}
	if end.After(r.Last) {
		r.Last = end
	}
	r.Requests++
	r.Statuses[res.Status]++
	if res.Err == nil {
		r.latencies, r.sorted = append(r.latencies, res.Took), false
	} else if e := errorKind(res.Err); r.Errors[e] > 0 || len(r.Errors) < maxErrors {
		r.Errors[e]++
	}
	if !res.Failed() {
		r.Backends[res.Backend]++
		return
	}
	r.Failed++
	if r.FirstFailure.IsZero() || res.Start.Before(r.FirstFailure) {
		r.FirstFailure = res.Start
	}
	if end.After(r.LastFailure) {
		r.LastFailure = end
	}
}

// Join adds what another report says. Rate counts the time between the two.
func (r *Report) Join(o *Report) {
	if r.Requests == 0 || o.Requests > 0 && o.First.Before(r.First) {
		r.First = o.First
	}
	if o.Last.After(r.Last) {
		r.Last = o.Last
	}
	if r.FirstFailure.IsZero() || !o.FirstFailure.IsZero() && o.FirstFailure.Before(r.FirstFailure) {
		r.FirstFailure = o.FirstFailure
	}
	if o.LastFailure.After(r.LastFailure) {
		r.LastFailure = o.LastFailure
	}
	r.Requests, r.Failed = r.Requests+o.Requests, r.Failed+o.Failed
	for status, n := range o.Statuses {
		r.Statuses[status] += n
	}
	for backend, n := range o.Backends {
		r.Backends[backend] += n
	}
	for e, n := range o.Errors {
		if r.Errors[e] > 0 || len(r.Errors) < maxErrors {
			r.Errors[e] += n
		}
	}
	r.latencies, r.sorted = append(r.latencies, o.latencies...), false
}

// errorKind leaves out the addresses, so that equal failures count together.
func errorKind(err error) string {
	kind, rest, ok := strings.Cut(err.Error(), ": ")
	if i := strings.LastIndex(rest, ": "); ok && i >= 0 {
		rest = rest[i+2:]
	}
	if !ok {
		return kind
	}
	return kind + ": " + rest
}

// Rate is requests that did not fail, a second.
func (r *Report) Rate() float64 {
	d := r.Last.Sub(r.First)
	if d <= 0 {
		return 0
	}
	return float64(r.Requests-r.Failed) / d.Seconds()
}

// Share is the part of the answers that came from a backend, 0 to 1.
func (r *Report) Share(backend string) float64 {
	if n := r.Requests - r.Failed; n > 0 {
		return float64(r.Backends[backend]) / float64(n)
	}
	return 0
}

// Outage is the time from the first failure's start to the last failure's end; 0 when nothing failed.
func (r *Report) Outage() time.Duration { return r.LastFailure.Sub(r.FirstFailure) }

// Quantile gives the latency below which the part q (0 to 1) of the answers came; 0 without answers.
func (r *Report) Quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	if !r.sorted {
		slices.Sort(r.latencies)
		r.sorted = true
	}
	return r.latencies[min(int(q*float64(len(r.latencies))), len(r.latencies)-1)]
}

// WriteTo prints the report for people.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, %d failed, %.0f/s, p50 %s, p99 %s\n", r.Requests, r.Failed, r.Rate(),
		r.Quantile(0.5).Round(time.Microsecond), r.Quantile(0.99).Round(time.Microsecond))
	for _, s := range slices.Sorted(maps.Keys(r.Statuses)) {
		what := "status " + fmt.Sprint(s)
		if s == 0 {
			what = "no answer"
		}
		fmt.Fprintf(&b, "  %-14s %d\n", what, r.Statuses[s])
	}
	for _, n := range slices.Sorted(maps.Keys(r.Backends)) {
		fmt.Fprintf(&b, "  from %-9s %d (%.1f%%)\n", n, r.Backends[n], 100*r.Share(n))
	}
	for _, e := range r.Failures() {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// Failures lists the kinds of failures with their numbers, the most frequent first.
func (r *Report) Failures() []string {
	all := maps.Clone(r.Errors)
	for s, n := range r.Statuses {
		if s != 0 && (s < 200 || s > 299) {
			all[fmt.Sprintf("status %d", s)] = n
		}
	}
	keys := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		if all[a] != all[b] {
			return all[b] - all[a]
		}
		return strings.Compare(a, b)
	})
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%d× %s", all[k], k)
	}
	return keys
}
