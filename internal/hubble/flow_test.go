package hubble

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

var update = flag.Bool("update", false, "write the golden files")

func begun() *observe.Flow {
	f := answered()
	f.HTTP, f.Layer, f.Open, f.Duration, f.Sent, f.Received = nil, observe.MTLS, true, 0, 0, 0
	return f
}

// admitted is a request that a route and a rule of a policy took.
func admitted() *observe.Flow {
	f := answered()
	f.HTTP.Backend = "store/web-1"
	f.SeenAt, f.Route, f.AllowedBy = observe.AtDestination, "HTTPRoute/store/web/1/beta", "AuthorizationPolicy/store/vault/2"
	return f
}

func named() *observe.Flow {
	f := begun()
	f.Route, f.Stream = "TLSRoute/store/a", "5d3e7a0e-8b53-4d3c-9c6e-0f2a1b3c4d5e"
	return f
}

func outside() *observe.Flow {
	f := denied()
	f.Layer, f.Reason, f.Policies, f.Duration = observe.L4, "plaintext to a strict workload", nil, 0
	f.Source = observe.Peer{Address: f.Source.Address}
	f.Destination.Identity = ""
	return f
}

// resolved is a question of DNS with its answer; unanswered has none.
func resolved() *observe.Flow {
	f := answered()
	f.HTTP, f.Protocol, f.Source.Identity, f.Destination.Identity = nil, model.UDP, "", ""
	f.DNS = &observe.DNS{Name: "web.store.svc", Type: "AAAA", Code: "NXDOMAIN", Answers: 1}
	return f
}

func unanswered() *observe.Flow {
	f := resolved()
	f.DNS = &observe.DNS{Name: ".", Type: "NS"}
	f.Verdict, f.Reason = observe.Failed, "no answer within 5s"
	return f
}

func datagrams() *observe.Flow {
	f := resolved()
	f.DNS, f.Layer = nil, observe.L4
	return f
}

// TestGolden shows what becomes of a flow, and that it can be made of that again.
func TestGolden(t *testing.T) {
	for name, f := range map[string]*observe.Flow{"request": answered(), "denied": denied(), "admitted": admitted(), "opened": begun(), "named": named(), "plaintext": outside(),
		"dns": resolved(), "dns-unanswered": unanswered(), "udp": datagrams(),
	} {
		st := pods()
		m := newMapper("node-1", "v1", st)
		m.process = 0x0123456789abcdef
		out := m.flow(st.Snapshot(), f)
		text, err := protojson.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		var indented bytes.Buffer // protojson changes its spaces from build to build
		if err := json.Indent(&indented, text, "", "  "); err != nil {
			t.Fatal(err)
		}
		indented.WriteByte('\n')
		file := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(file, indented.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), indented.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		back := *f
		back.Seq = 0 // a UUID has it
		back.Destination.Address = observe.NewResolver(st).Peer(f.Destination.Address).Address
		for _, p := range []*observe.Peer{&back.Source, &back.Destination} {
			if w, ok := st.Workloads.Get(st.Snapshot(), p.Workload); ok {
				p.Labels = w.Labels
			}
		}
		if diff := cmp.Diff(&back, FromFlow(out), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s, there and back: %s", name, diff)
		}
	}
}

// TestReasonsOfTheKernel: Hubble has a word for each reason for which the kernel's part refuses.
func TestReasonsOfTheKernel(t *testing.T) {
	n := 0
	for r := datapath.Reason(1); r.String() != "unknown"; r++ {
		if _, ok := reasons[r.String()]; !ok {
			t.Errorf("nothing for %q", r)
		}
		n++
	}
	if n != len(reasons) {
		t.Errorf("%d reasons, and words for %d", n, len(reasons))
	}
}

func TestUUID(t *testing.T) {
	if got, want := uuid(0x0123456789abcdef, 7), "01234567-89ab-8def-8000-000000000007"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestMask(t *testing.T) {
	m, err := newMask(&fieldmaskpb.FieldMask{Paths: []string{"source.namespace", "verdict", "IP", "IP.source"}})
	if err != nil {
		t.Fatal(err)
	}
	f := m.apply(mapped(t, answered()))
	want := &flowpb.Flow{Source: &flowpb.Endpoint{Namespace: "shop"}, Verdict: flowpb.Verdict_FORWARDED, IP: &flowpb.IP{
		Source: "10.0.1.9", Destination: "10.0.2.5", IpVersion: flowpb.IPVersion_IPv4, Encrypted: true,
	}}
	if f.String() != want.String() {
		t.Errorf("%v, want %v", f, want)
	}
	if _, err := newMask(&fieldmaskpb.FieldMask{Paths: []string{"nothing"}}); err == nil {
		t.Error("a path that is none is taken")
	}
}
