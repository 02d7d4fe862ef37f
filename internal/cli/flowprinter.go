package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/weft-mesh/weft/internal/observe"
)

// flowPrinter prints flows, with the node that saw them where there are several. It is used by one at a time.
type flowPrinter struct {
	local, date   bool // local time; dates
	zone          *time.Location
	w             io.Writer
	json          *json.Encoder // nil unless the format is json
	wide, colours bool
	oneNode       bool // lines do not name the node; JSON does
}

func (p *flowPrinter) flags(f *pflag.FlagSet) {
	f.BoolVar(&p.local, "local", false, "times as they are here, and not in UTC")
	f.BoolVar(&p.date, "date", false, "times with their date")
}

// to says where to print, and in which format: table, wide or json. A terminal gets colours unless $NO_COLOR is set.
func (p *flowPrinter) to(w io.Writer, format string) {
	p.w, p.wide, p.zone = w, format == "wide", time.UTC
	if p.local {
		p.zone = time.Local
	}
	if format == "json" {
		p.json = json.NewEncoder(w)
	}
	file, ok := w.(*os.File)
	p.colours = ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == ""
}

// print prints an event as a line. Lines come one by one, so columns are as wide as most need and not aligned over all.
func (p *flowPrinter) print(node string, e observe.Event) error {
	if p.json != nil {
		return p.json.Encode(struct {
			Node string `json:"node"`
			observe.Event
		}{node, e})
	}
	var line string
	switch f := e.Flow; {
	case e.Lost > 0:
		line = fmt.Sprintf("-- %d flows were lost here --", e.Lost)
	case f == nil:
		return nil
	default:
		line = p.line(f)
	}
	if node != "" && !p.oneNode {
		line = node + "  " + line
	}
	line = strings.TrimRight(printable(line), " ")
	if p.colours && e.Flow != nil {
		verdict := string(e.Flow.Verdict)
		line = strings.Replace(line, "  "+verdict, "  "+colour(e.Flow.Verdict)+verdict+plainText, 1)
	}
	_, err := fmt.Fprintln(p.w, line)
	return err
}

const plainText = "\x1b[0m"

// colour is the terminal's sequence for a verdict (ECMA-48, SGR).
func colour(v observe.Verdict) string {
	switch v {
	case observe.Forwarded:
		return "\x1b[32m" // green
	case observe.Refused:
		return "\x1b[31m" // red
	}
	return "\x1b[33m" // yellow
}

func (p *flowPrinter) line(f *observe.Flow) string {
	to := f.Destination.String()
	if s := f.Destination.Service; s != "" && f.Destination.Workload != "" {
		to += " (" + s + ")"
	}
	line := fmt.Sprintf("%s  %-9s  %-4s  %s -> %s  %s", p.time(f.Time), f.Verdict, f.Layer, f.Source, to, details(f))
	if p.wide {
		line = strings.TrimRight(line, " ") + "  [" + wideDetails(f) + "]"
	}
	return line
}

func (p *flowPrinter) time(t time.Time) string {
	layout := "15:04:05.000"
	if p.date {
		layout = "2006-01-02T15:04:05.000Z07:00"
	}
	return t.In(p.zone).Format(layout)
}

// wideDetails is what a line does not have room for: the protocol, the end that reports it, the rule that let it in, the identities, and
// the pods' labels.
func wideDetails(f *observe.Flow) string {
	out := []string{f.Protocol.String()}
	if f.SeenAt != "" {
		out = append(out, "seen at "+string(f.SeenAt))
	}
	if f.AllowedBy != "" {
		out = append(out, "allowed by "+f.AllowedBy)
	}
	for _, end := range []struct {
		what string
		peer observe.Peer
	}{{"from", f.Source}, {"to", f.Destination}} {
		if id := end.peer.Identity; id != "" {
			out = append(out, end.what+" "+string(id))
		}
		if l := end.peer.Labels; len(l) > 0 {
			var all []string
			for _, key := range slices.Sorted(maps.Keys(l)) {
				all = append(all, key+"="+l[key])
			}
			out = append(out, end.what+" "+strings.Join(all, " "))
		}
	}
	return strings.Join(out, ", ")
}

func details(f *observe.Flow) string {
	var out []string
	if h := f.HTTP; h != nil {
		text := fmt.Sprintf("%s %s%s %d", h.Method, h.Host, h.Path, h.Status)
		if h.Backend != "" && h.Backend != f.Destination.Workload {
			text += " by " + h.Backend
		}
		out = append(out, text)
	}
	if d := f.DNS; d != nil {
		out = append(out, strings.TrimRight(fmt.Sprintf("%s %s %s", d.Type, d.Name, d.Code), " "))
		if d.Code != "" {
			out = append(out, counted(d.Answers, "answer"))
		}
	}
	if f.Route != "" {
		out = append(out, f.Route)
	}
	if f.Reason != "" {
		reason := f.Reason
		if len(f.Policies) > 0 {
			reason += ": " + join(f.Policies, 3, same)
		}
		out = append(out, reason)
	}
	if f.More > 0 {
		out = append(out, fmt.Sprintf("and %d more like it", f.More))
	}
	switch {
	case f.Open:
		out = append(out, "opened")
	case f.Verdict == observe.Forwarded:
		out = append(out, fmt.Sprintf("%s out, %s in", size(f.Sent), size(f.Received)))
	}
	if f.Duration > 0 {
		out = append(out, "took "+round(f.Duration))
	}
	if f.RTT > 0 {
		out = append(out, "rtt "+round(f.RTT))
	}
	if f.Retransmits > 0 {
		out = append(out, fmt.Sprintf("%d retransmits", f.Retransmits))
	}
	return strings.Join(out, ", ")
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func round(d time.Duration) string {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func size(n uint64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
