package traffic

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// Datagrams counts what the node's workloads say by UDP: exchanges of datagrams, and questions to DNS.
type Datagrams struct {
	st  *state.State
	now func() time.Time

	mu   sync.Mutex
	sets *sets[udp]
}

// udp are the counts of one set of labels. Sent is from the source to the destination.
type udp struct {
	exchanges, sent, received uint64
	questions                 map[string]uint64 // by the answer's code: at most 16, and NoAnswer
	took                      histogram         // of questions that were answered
}

// NoAnswer is the code of a question without an answer.
const NoAnswer = "none"

// dnsBuckets are upper bounds, in seconds.
var dnsBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// NewDatagrams counts flows. st says who owns a pod.
func NewDatagrams(st *state.State) *Datagrams {
	return &Datagrams{st: st, now: time.Now, sets: newSets[udp](MaxSets, MaxSetsPerNamespace)}
}

// Ended counts a flow by UDP: an exchange, or a question if the flow has one, by TCP too.
func (d *Datagrams) Ended(f *observe.Flow) {
	l := labelsOf(d.st, f)
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.sets.at(l, d.now())
	if f.DNS == nil {
		u.exchanges++
		u.sent += f.Sent
		u.received += f.Received
		return
	}
	if u.questions == nil {
		u.questions = map[string]uint64{}
	}
	if f.DNS.Code == "" {
		u.questions[NoAnswer]++
		return
	}
	u.questions[f.DNS.Code]++
	if f.Duration > 0 { // else the question was not seen
		u.took.observe(dnsBuckets, f.Duration.Seconds())
	}
}

var (
	exchanges   = metric("weft_udp_exchanges_total", "counter", "Exchanges of UDP datagrams, other than DNS, that have ended: there was none for 30 s.")
	udpSent     = metric("weft_udp_sent_bytes_total", "counter", "Bytes from the source to the destination, of exchanges of UDP datagrams that have ended.")
	udpReceived = metric("weft_udp_received_bytes_total", "counter", "Bytes from the destination to the source, of exchanges of UDP datagrams that have ended.")
	questions   = metric("weft_dns_questions_total", "counter", "Questions to DNS, by the code of the answer.", "code")
	answerTime  = metric("weft_dns_answer_seconds", "histogram", "Time from a question to DNS to its answer.")
)

// Describe implements prometheus.Collector.
func (d *Datagrams) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range []Metric{exchanges, udpSent, udpReceived, questions, answerTime} {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (d *Datagrams) Collect(ch chan<- prometheus.Metric) {
	for _, m := range d.metrics() {
		ch <- m
	}
}

// metrics makes what is collected, so that nobody waits for a reader while counting is held up.
func (d *Datagrams) metrics() []prometheus.Metric {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sets.expire(d.now().Add(-IdleTime))
	var out []prometheus.Metric
	for l, s := range d.sets.kept {
		u := &s.counts
		count := func(m Metric, n uint64, more ...string) {
			out = append(out, prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(n), l.values(more...)...))
		}
		if u.exchanges > 0 {
			count(exchanges, u.exchanges)
			count(udpSent, u.sent)
			count(udpReceived, u.received)
		}
		for code, n := range u.questions {
			count(questions, n, code)
		}
		if u.took.counts != nil {
			out = append(out, u.took.metric(answerTime.desc, dnsBuckets, 1, l.values()))
		}
	}
	return out
}

// AddTotals adds what was counted to totals.
func (d *Datagrams) AddTotals(totals map[Labels]Totals) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sets.expire(d.now().Add(-IdleTime))
	for l, s := range d.sets.kept {
		t, u := totals[l], &s.counts
		t.UDP = UDPTotals{Exchanges: u.exchanges, Sent: u.sent, Received: u.received, Unanswered: u.questions[NoAnswer]}
		for _, n := range u.questions {
			t.UDP.Questions += n
		}
		totals[l] = t
	}
}
