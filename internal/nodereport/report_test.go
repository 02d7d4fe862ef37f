package nodereport

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func rejection(resource, message string, objects ...string) *model.Rejection {
	r := &model.Rejection{Resource: resource, Message: message}
	for i, name := range objects {
		ref := model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "ns", Name: name}
		r.Objects = append(r.Objects, model.ObjectVersion{ObjectRef: ref, Generation: int64(i + 1)})
	}
	return r
}

// TestReportComesBack encodes and decodes a report.
func TestReportComesBack(t *testing.T) {
	in := Report{
		Refused:   []*model.Rejection{rejection("RouteConfiguration/a", "no such thing", "r", "s")},
		Incidents: []Incident{{EnvoyReplaced, 1700000000, "stop_accepting_requests"}},
		Counts:    &Counts{Overloads: 1},
	}
	got, err := Decode("n1", in.Encode())
	if err != nil {
		t.Fatal(err)
	}
	in.Refused[0].Node, in.Version = "n1", version
	want, _ := json.Marshal(in)
	if have, _ := json.Marshal(got); string(have) != string(want) {
		t.Errorf("%s, want %s", have, want)
	}
	if text := (Report{Counts: &Counts{}}).Encode(); text != "" {
		t.Errorf("a node with nothing to say says %s", text)
	}
}

// TestReportIsBounded: many refusals of many objects fit, and what does not is counted.
func TestReportIsBounded(t *testing.T) {
	var in Report
	for i := range 1000 {
		var names []string
		for j := range 20 {
			names = append(names, fmt.Sprint("r", j, strings.Repeat("x", 200)))
		}
		in.Refused = append(in.Refused, rejection(fmt.Sprint("RouteConfiguration/", i), strings.Repeat("<", 5000), names...))
	}
	text := in.Encode()
	if len(text) == 0 || len(text) > maxBytes {
		t.Fatalf("%d bytes", len(text))
	}
	got, err := Decode("n1", text)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Refused) == 0 || len(got.Refused)+got.Omitted != 1000 {
		t.Errorf("%d refusals and %d that are left out, of 1000", len(got.Refused), got.Omitted)
	}
}

// TestManyRefusalsOfOneNamespace: those of others are in the report all the same.
func TestManyRefusalsOfOneNamespace(t *testing.T) {
	st := state.New(state.NewDB())
	w := st.Write(st.Rejections)
	for i := range 2 * maxRefused {
		st.Rejections.Put(w, rejection(fmt.Sprintf("RouteConfiguration/a%03d", i), "no such thing", "r"))
	}
	last := rejection("RouteConfiguration/z", "no such thing", "r")
	last.Objects[0].Namespace = "other"
	st.Rejections.Put(w, last)
	w.Commit()
	c := composer{st: st}
	got, err := Decode("n1", c.report(st.Snapshot(), time.Unix(1_700_000_000, 0)).Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(got.Refused, func(x *model.Rejection) bool { return x.Resource == last.Resource }) {
		t.Errorf("of %d refusals none is the other namespace's", len(got.Refused))
	}
}

// TestHostileReports: a node is not trusted. Nothing that it writes is more than a few printable lines.
func TestHostileReports(t *testing.T) {
	for _, text := range []string{
		"{", "[]", `{"version":2}`, `{"refused":[]}`, `{"version":1,"refused":7}`, strings.Repeat(" ", maxBytes+1),
	} {
		if r, err := Decode("n1", text); err == nil || len(r.Refused)+len(r.Incidents) > 0 {
			t.Errorf("%.30q is taken: %+v", text, r)
		}
	}
	got, err := Decode("n1", `{"version":1,"new":true,"incidents":[{"kind":"Reboot"},{"kind":"EnvoyDied","detail":"a\nb\u001b[31m\u202ec"}],
		"refused":[null,{"node":"n2","resource":"a\u0000b","message":"x\r\ny\u2028z","objects":[{"kind":""},{"kind":"Secret","name":"s","generation":-1}]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Refused) != 1 || got.Refused[0].Node != "n1" || len(got.Refused[0].Objects) != 1 || len(got.Incidents) != 1 {
		t.Fatalf("%+v", got)
	}
	for _, s := range []string{got.Refused[0].Resource, got.Refused[0].Message, got.Incidents[0].Detail} {
		if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q holds what cannot be printed", s)
		}
	}
	if cut := Printable(strings.Repeat("é", 400), maxMessage); len(cut) > maxMessage+4 || !strings.HasPrefix(cut, "éé") || strings.Contains(cut, "\ufffd") {
		t.Errorf("cut to %d bytes: %q", len(cut), cut)
	}
}

// TestIncidents: each count that grows is an incident, one in ten minutes of a kind, for half an hour, and a weft proxy that
// does not answer or counts anew is none.
func TestIncidents(t *testing.T) {
	st := state.New(state.NewDB())
	c := composer{st: st}
	now := time.Unix(1_700_000_000, 0)
	look := func(p *model.Proxy, after time.Duration) []IncidentKind {
		w := st.Write(st.Proxies)
		st.Proxies.Put(w, p)
		w.Commit()
		now = now.Add(after)
		var kinds []IncidentKind
		for _, i := range c.report(st.Snapshot(), now).Incidents {
			kinds = append(kinds, i.Kind)
		}
		return kinds
	}
	tunnel := func(crashes int) *model.TunnelProcess { return &model.TunnelProcess{Crashes: crashes} }
	for i, step := range []struct {
		row   *model.Proxy
		after time.Duration
		want  []IncidentKind
	}{
		{&model.Proxy{State: "LIVE", Overloads: 3, Crashes: 2}, 0, nil},
		{&model.Proxy{Error: "no answer"}, time.Second, nil},
		{&model.Proxy{State: "LIVE", Overloads: 4, Crashes: 2}, time.Second, []IncidentKind{EnvoyReplaced}},
		{&model.Proxy{State: "LIVE", Overloads: 5, Crashes: 2}, time.Minute, []IncidentKind{EnvoyReplaced}},
		{&model.Proxy{State: "LIVE", Overloads: 5, Crashes: 3, Tunnel: tunnel(0)}, time.Minute, []IncidentKind{EnvoyReplaced, EnvoyDied}},
		{&model.Proxy{State: "LIVE", Tunnel: tunnel(1)}, time.Minute, []IncidentKind{EnvoyReplaced, EnvoyDied, TunnelDied}},
		{&model.Proxy{State: "LIVE", Overloads: 1, Tunnel: tunnel(1)}, 10 * time.Minute, []IncidentKind{EnvoyReplaced, EnvoyDied, TunnelDied, EnvoyReplaced}},
		{&model.Proxy{State: "LIVE", Overloads: 1, Tunnel: tunnel(1)}, time.Hour, nil},
		{&model.Proxy{State: "LIVE", Overloads: 1, Tunnel: tunnel(1), Overload: []string{"shrink_heap"}}, time.Second, nil},
		{&model.Proxy{State: "LIVE", Overloads: 1, Tunnel: tunnel(1), Overload: []string{model.OverloadConnections}}, time.Second, []IncidentKind{EnvoyFull}},
		{&model.Proxy{State: "LIVE", Overloads: 1, Tunnel: tunnel(1)}, time.Second, []IncidentKind{EnvoyFull}},
	} {
		if got := look(step.row, step.after); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}

// TestAgentGoesOnWithTheReport: what the agent before reported as refused stays reported until Envoy has answered the new
// one, and is not said twice; its incidents stay, and what happened between the two is found.
func TestAgentGoesOnWithTheReport(t *testing.T) {
	st := state.New(state.NewDB())
	c := composer{st: st}
	now := time.Unix(1_700_000_000, 0)
	c.resume(Report{
		Refused:   []*model.Rejection{rejection("Listener/a", "old"), rejection("Listener/b", "old")},
		Incidents: []Incident{{EnvoyDied, now.Unix(), ""}}, Counts: &Counts{Overloads: 1},
	}, now.Add(time.Minute))
	w := st.Write(st.Rejections, st.Proxies)
	st.Rejections.Put(w, rejection("Listener/a", "new"))
	st.Proxies.Put(w, &model.Proxy{State: "LIVE", Overloads: 2})
	w.Commit()
	said := func() (out []string) {
		r := c.report(st.Snapshot(), now)
		for _, x := range r.Refused {
			out = append(out, x.Resource+" "+x.Message)
		}
		for _, i := range r.Incidents {
			out = append(out, string(i.Kind))
		}
		return out
	}
	if got, want := said(), []string{"Listener/a new", "Listener/b old", "EnvoyDied", "EnvoyReplaced"}; !slices.Equal(got, want) {
		t.Errorf("at the start: %q, want %q", got, want)
	}
	now = now.Add(time.Minute)
	if got, want := said(), []string{"Listener/a new", "EnvoyDied", "EnvoyReplaced"}; !slices.Equal(got, want) {
		t.Errorf("a minute later: %q, want %q", got, want)
	}
}
