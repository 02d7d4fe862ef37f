package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is build/bench.json.
type report struct {
	Began      time.Time         `json:"began"`
	Took       string            `json:"took"`
	Machine    machine           `json:"machine"`
	Rounds     int               `json:"rounds"`
	Span       string            `json:"span"`
	Bytes      string            `json:"bytes"` // the way of authenticated bytes
	Requests   []figures         `json:"requests,omitempty"`
	Opened     []figures         `json:"opened,omitempty"` // rates are connections a second; closed with a reset
	OpenedFIN  []figures         `json:"openedFIN,omitempty"`
	Unread     []figures         `json:"besideUnread,omitempty"`
	Observing  []observedFigures `json:"observing,omitempty"`
	Questions  []observedFigures `json:"questions,omitempty"`
	Idle       []idleFigures     `json:"idle,omitempty"`
	Throughput []figures         `json:"throughput,omitempty"` // rates are bytes a second
	Memory     *memoryFigures    `json:"memory,omitempty"`
	Restart    *restartFigures   `json:"restart,omitempty"`
	Change     []changeFigures   `json:"change,omitempty"`
	Marks      []mark            `json:"marks"`
}

type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
}

// mark is a figure that was promised.
type mark struct {
	Name string  `json:"name"`
	Want string  `json:"want"`
	Got  float64 `json:"got"`
	Pass bool    `json:"pass"`
	// Noise is true for a miss that the rounds do not prove: more of them may give what was promised (interval).
	Noise bool `json:"withinNoise,omitempty"`
}

func newReport(c config) *report {
	return &report{Bytes: c.bytesWay(), Began: time.Now(), Rounds: c.rounds, Span: c.span.String(), Machine: thisMachine()}
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	return m
}

// observedMark is the share of requests a second that is left when an agent observes what it does by default.
const observedMark = 0.97

// mark compares what was measured with what was promised.
func (r *report) mark() {
	atLeast := func(name string, all []figures, way, to string, connections int, want float64) {
		if got, ok := ratio(all, way, to, connections); ok {
			r.Marks = append(r.Marks, mark{Name: name, Want: fmt.Sprintf("at least %g", want), Got: got, Pass: got >= want})
		}
	}
	below := func(name, unit string, got, want float64) {
		r.Marks = append(r.Marks, mark{Name: name, Want: fmt.Sprintf("under %g %s", want, unit), Got: got, Pass: got < want})
	}
	for _, n := range connections {
		atLeast(fmt.Sprintf("kernel path / direct, requests at %d", n), r.Requests, kernel, direct, n, 0.98)
	}
	atLeast("kernel path / direct, throughput", r.Throughput, kernel, direct, 1, 0.98)
	atLeast("kernel path / direct, connections opened", r.Opened, kernel, direct, openers, 0.95)
	for _, n := range connections {
		atLeast(fmt.Sprintf("L7 route / static Envoy hop at %d", n), r.Requests, weftL7, static, n, 0.97)
	}
	for _, n := range connections {
		atLeast(fmt.Sprintf("L7 route / sidecar pair at %d", n), r.Requests, weftL7, sidecarsH1, n, 1.8)
	}
	r.markAuthenticated(atLeast, below)
	for _, f := range r.Observing {
		atLeast("observing by default / nothing, "+f.Way, f.Observing, observingMetrics, observingNothing, 32, observedMark)
		if i := len(r.Marks) - 1; i >= 0 && !r.Marks[i].Pass {
			_, high := interval(ratios(f.Observing, observingMetrics, observingNothing, 32, func(f figures) []float64 { return f.Rounds }))
			r.Marks[i].Noise = high >= observedMark
		}
	}
	if m := r.Memory; m != nil {
		below("Envoy, 100 pods and 5,000 L7 Services", "MB", float64(m.Ready.Envoy)/1e6, 100)
		below("agent, the same", "MB", float64(m.Ready.Agent)/1e6, 130)
	}
	if m := r.Restart; m != nil {
		below("agent killed, a new Service answers, median at 5,000 Services", "s", m.Median.Seconds(), 1.5)
	}
	for _, c := range r.Change {
		if c.Routes >= 10_000 {
			below(fmt.Sprintf("changed route answers, median at %d routes", c.Routes), "ms", float64(c.Median)/1e6, 20)
			below("CPU of the agent for it", "ms", float64(c.AgentCPU)/1e6, 1)
		}
	}
}

// markAuthenticated compares the authenticated paths with pairs of sidecars that authenticate.
func (r *report) markAuthenticated(atLeast func(string, []figures, string, string, int, float64), below func(string, string, float64, float64)) {
	for _, n := range connections {
		atLeast(fmt.Sprintf("bytes with mTLS / mTLS sidecar pair at %d", n), r.Requests, r.Bytes, sidecarsTLSH2, n, 3)
	}
	for _, n := range connections {
		atLeast(fmt.Sprintf("L7 with mTLS / mTLS sidecar pair at %d", n), r.Requests, weftL7MTLS, sidecarsTLSH2, n, 1.3)
	}
	for end, all := range map[string][]figures{"reset": r.Opened, "FIN": r.OpenedFIN} {
		name := "bytes with mTLS, connections opened, closed with " + end
		atLeast(name+", / mTLS sidecar pair", all, r.Bytes, sidecarsTLSH2, openers, 1.2)
		if f, ok := find(all, r.Bytes, openers); ok {
			below(name+", CPU of proxies each", "µs", float64(f.ProxyCPU)/1e3, 300)
		}
	}
	atLeast("bytes with mTLS / mTLS sidecar pair, one stream", r.Throughput, r.Bytes, sidecarsTLSH2, 1, 1.5)
	beside, ok := find(r.Unread, r.Bytes, openers)
	if idle, was := find(r.Requests, r.Bytes, openers); ok && was && idle.P99 > 0 {
		below(fmt.Sprintf("bytes with mTLS, p99 beside %d unread downloads / without", unread), "times", float64(beside.P99)/float64(idle.P99), 2)
	}
	for _, f := range r.Idle {
		if f.Way == r.Bytes {
			below(fmt.Sprintf("bytes with mTLS, proxies' memory for %d idle connections", f.Connections), "MB", float64(f.Growth())/1e6, 150)
		}
	}
}

// find returns the figures of a way at a number of connections.
func find(all []figures, way string, connections int) (figures, bool) {
	i := slices.IndexFunc(all, func(f figures) bool { return f.Way == way && f.Connections == connections })
	if i < 0 {
		return figures{}, false
	}
	return all[i], true
}

func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d cores, Linux %s; medians of %d rounds or more of %s, all ways in turns; took %s\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Rounds, r.Span, r.Took)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, n := range connections {
		r.requests(t, n)
	}
	opened(t, "reset", r.Opened)
	opened(t, "FIN", r.OpenedFIN)
	r.unread(t)
	if len(r.Throughput) > 0 {
		fmt.Fprintf(t, "\none stream\tGbit/s\t/ direct\tCPU a GB\tproxies\tothers\t\n")
		for _, f := range r.Throughput {
			fmt.Fprintf(t, "%s\t%.1f\t%s\t%.0f ms\t%.0f ms\t%s\t\n", f.Way, f.Rate*8/1e9, against(r.Throughput, f, direct),
				float64(f.CPU)/1e6, float64(f.ProxyCPU)/1e6, others(f))
		}
	}
	printObserved(t, slices.Concat(r.Observing, r.Questions))
	if len(r.Idle) > 0 {
		fmt.Fprintf(t, "\nidle connections, proxies' memory\tconnections\tbefore\twith them\tgrowth\t\n")
		for _, f := range r.Idle {
			fmt.Fprintf(t, "%s\t%d\t%d MB\t%d MB\t%d MB\t\n", f.Way, f.Connections, f.Before/1e6, f.With/1e6, f.Growth()/1e6)
		}
	}
	if m := r.Memory; m != nil {
		fmt.Fprintf(t, "\n%d pods, %d L7 Services\tagent\tEnvoy\t\n", m.Pods, m.Services)
		fmt.Fprintf(t, "ready after %s\t%d MB\t%d MB\t\n", m.ReadyIn, m.Ready.Agent/1e6, m.Ready.Envoy/1e6)
		fmt.Fprintf(t, "after calls to %d of them\t%d MB\t%d MB\t\n", m.Called, m.After.Agent/1e6, m.After.Envoy/1e6)
	}
	if m := r.Restart; m != nil {
		fmt.Fprintf(t, "\nagent killed and started, %d pods, %d Services\ta new Service answers\tthe node is healthy\t\n", m.Pods, m.Services)
		for i := range m.Healthy {
			fmt.Fprintf(t, "round %d\t%.2f s\t%.2f s\t\n", i+1, m.Answers[i].Seconds(), m.Healthy[i].Seconds())
		}
	}
	if len(r.Change) > 0 {
		fmt.Fprintf(t, "\na route's change answers after\tmedian\tp90\tCPU of the agent\tnode ready after\t\n")
		for _, c := range r.Change {
			fmt.Fprintf(t, "%d routes\t%.1f ms\t%.1f ms\t%.2f ms\t%s\t\n", c.Routes, float64(c.Median)/1e6, float64(c.P90)/1e6, float64(c.AgentCPU)/1e6, c.ReadyIn)
		}
	}
	fmt.Fprintf(t, "\nmark\twant\tgot\t\t\n")
	for _, m := range r.Marks {
		verdict := "pass"
		if !m.Pass {
			verdict = "MISS"
			if m.Noise {
				verdict = "MISS, within noise"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%.3g\t%s\t\n", m.Name, m.Want, m.Got, verdict)
	}
	_ = t.Flush()
}

// printObserved says with each ratio to the first line between what values it lies, and of how many rounds.
func printObserved(t io.Writer, all []observedFigures) {
	for _, o := range all {
		fmt.Fprintf(t, "\n%s, observing\ta second\t/ first (95 %%)\tCPU each\t/ first (95 %%)\tproxies\tothers\t\n", o.Way)
		for _, f := range o.Observing {
			between := func(of func(figures) []float64) string {
				v := ratios(o.Observing, f.Way, o.Observing[0].Way, f.Connections, of)
				low, high := interval(v)
				return fmt.Sprintf("%.3f (%.3f to %.3f)", median(v), low, high)
			}
			fmt.Fprintf(t, "%s\t%.0f\t%s\t%s\t%s\t%s\t%s\t\n", f.Way, f.Rate, between(func(f figures) []float64 { return f.Rounds }),
				micros(f.CPU), between(func(f figures) []float64 { return f.CPURounds }), micros(f.ProxyCPU), others(f))
		}
	}
}

func (r *report) requests(t io.Writer, n int) {
	if !slices.ContainsFunc(r.Requests, func(f figures) bool { return f.Connections == n }) {
		return
	}
	fmt.Fprintf(t, "\n%d connections\trequests/s\t/ direct\t/ static hop\tp50\tp99\tCPU a request\tproxies\tothers\t\n", n)
	for _, f := range r.Requests {
		if f.Connections == n {
			fmt.Fprintf(t, "%s\t%.0f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", f.Way, f.Rate, against(r.Requests, f, direct), against(r.Requests, f, static),
				micros(f.P50), micros(f.P99), micros(f.CPU), micros(f.ProxyCPU), others(f))
		}
	}
}

// opened prints connections that were closed with a reset or with FIN.
func opened(t io.Writer, end string, all []figures) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(t, "\nconnections opened, %d at once, closed with %s\ta second\t/ direct\tCPU each\tproxies\tothers\t\n", openers, end)
	for _, f := range all {
		fmt.Fprintf(t, "%s\t%.0f\t%s\t%s\t%s\t%s\t\n", f.Way, f.Rate, against(all, f, direct), micros(f.CPU), micros(f.ProxyCPU), others(f))
	}
}

// unread prints requests beside downloads that nobody reads.
func (r *report) unread(t io.Writer) {
	if len(r.Unread) == 0 {
		return
	}
	fmt.Fprintf(t, "\n%d connections beside %d unread downloads\trequests/s\tfailed\tp50\tp99\tp99 without\tproxies\tothers\t\n", openers, unread)
	for _, f := range r.Unread {
		without := "-"
		if idle, ok := find(r.Requests, f.Way, openers); ok {
			without = micros(idle.P99)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%d\t%s\t%s\t%s\t%s\t%s\t\n", f.Way, f.Rate, f.Failed, micros(f.P50), micros(f.P99), without, micros(f.ProxyCPU), others(f))
	}
}

// others is the largest share that other processes had of the machine in a round, and how many rounds they disturbed.
func others(f figures) string {
	if len(f.Others) == 0 {
		return "-"
	}
	s := fmt.Sprintf("%.0f%%", 100*slices.Max(f.Others))
	if n := f.disturbed(); n > 0 {
		s += fmt.Sprintf(" (disturbed %d of %d)", n, len(f.Others))
	}
	return s
}

func against(all []figures, f figures, to string) string {
	v, ok := ratio(all, f.Way, to, f.Connections)
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func micros(d time.Duration) string { return fmt.Sprintf("%.0f µs", float64(d)/1e3) }
