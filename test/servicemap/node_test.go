package servicemap

import (
	"context"
	"flag"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/weft-mesh/weft/examples"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/servicemap/web"
	"github.com/weft-mesh/weft/internal/testenv"
)

var picture = flag.String("picture", "", "file for a picture of the map, as PNG")

// TestNode looks at the map of a real node while its pods talk.
func TestNode(t *testing.T) {
	testenv.Root(t)
	b := newBrowser(t)
	n := start(t)
	calls := func(from *lab.Pod, namespace, service, path string, rate float64) {
		at := netip.AddrPortFrom(n.ServiceIP(namespace, service), 80)
		r, err := load.Start(t.Context(), load.Config{URL: "http://" + at.String() + path, Host: service, Dial: from.Dial, Rate: rate, NewConnections: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Stop() })
	}
	path := "/" + url.PathEscape(hostile)
	calls(n.Pod("canary", "client"), "canary", "web", path, 40)
	calls(n.Pod("bank", "teller"), "bank", "vault", "/", 12)
	calls(n.Pod("bank", "janitor"), "bank", "vault", "/", 4)
	calls(n.Pod("street", "passerby"), "bank", "vault", "/", 3)
	address := open(t, b, n)

	// Edges appear, with rates and marks.
	const canary, teller, janitor, passerby = "canary/Pod/client>canary/Pod/web-v1", "bank/Pod/teller>bank/Pod/vault", "bank/Pod/janitor>bank/Pod/vault", "street/Pod/passerby>bank/Pod/vault"
	b.await(label(canary) + `.includes("req/s")`)
	b.await(label(canary) + `.includes("p99")`)
	b.await(label(teller) + `.includes("conn/s")`)
	b.await(label(janitor) + `.includes("refused/s")`)
	b.await(label(passerby) + `.includes("refused/s")`)
	for id, want := range map[string]string{canary: "none", teller: "all", passerby: "none"} {
		if got := eval[string](b, data(id, "mtls")); got != want {
			t.Errorf("%s: mTLS %s, want %s", id, got, want)
		}
	}
	for id, want := range map[string]bool{canary: false, teller: false, janitor: true, passerby: true} {
		if got := eval[bool](b, data(id, "bad")); got != want {
			t.Errorf("%s: marked as bad: %t", id, got)
		}
	}
	if got := eval[[]string](b, `weftMap.cy.nodes("[?box]").map((n) => n.data("label")).sort()`); strings.Join(got, " ") != "bank canary street" {
		t.Errorf("namespaces %q", got)
	}

	// A click shows flows and what decided.
	b.clickEdge(passerby)
	b.await(`document.getElementById("decided").textContent.includes("plaintext to a strict workload")`)
	b.await(`document.getElementById("decided").textContent.includes("mode strict of bank/vault")`)
	b.clickEdge(canary)
	b.await(`document.getElementById("flows").textContent.includes("GET web/")`)
	b.await(`document.getElementById("decided").textContent.includes("rule 0 of HTTPRoute canary/web, ")`)
	b.clickEdge(teller)
	b.await(`document.getElementById("decided").textContent.includes("allowed: rule 0 of AuthorizationPolicy bank/vault, ")`)
	b.clickEdge(canary)
	b.await(`document.getElementById("flows").textContent.includes("GET web/")`)
	if got := eval[string](b, `document.getElementById("flows").textContent`); !strings.Contains(got, path) {
		t.Errorf("no flow of %s: %s", path, got)
	}
	b.clickEdge(janitor)
	b.await(`document.getElementById("decided").textContent.includes("no policy allows it: bank/vault")`)
	b.await(`document.getElementById("flows").rows.length > 3`)
	if *picture != "" {
		if err := os.WriteFile(*picture, run(b, chromedp.CaptureScreenshot()), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// What begins to talk later comes without a reload.
	calls(n.Pod("l4", "client"), "l4", "db", "/", 5)
	b.await(label("l4/Pod/client>l4/Pod/db-1") + `.includes("conn/s")`)
	b.alone(address)
}

func start(t *testing.T) *sandbox.Node {
	t.Helper()
	n, err := sandbox.New(sandbox.Options{
		Name: "wmap", Subnet: netip.MustParsePrefix("10.86.0.0/24"), Binary: testenv.Weft(t), Envoy: testenv.Envoy(t),
		AgentArgs: []string{"--request-log", "--metrics-address=127.0.0.1:15926"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.Logs())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, example := range []string{"canary", "mtls", "l4"} {
		if err := n.Apply(t.Context(), examples.FS, example); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// open shows the node's map, as weft map does, and returns the page's address.
func open(t *testing.T, b *browser, n *sandbox.Node) string {
	t.Helper()
	page, err := web.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- page.ServeView(ctx, api.ServiceMap{{Client: n.API}}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	address, _, _ := strings.Cut(page.URL, "#")
	b.do(chromedp.Navigate(page.URL))
	b.await(`location.href === ` + quoted(address))
	return address
}

// data is an expression for what the picture knows of an edge.
func data(edge, key string) string {
	return `weftMap.cy.getElementById(` + quoted(edge) + `).data(` + quoted(key) + `)`
}

// label is an expression for an edge's label, "" where there is no edge.
func label(edge string) string { return `(` + data(edge, "label") + ` || "")` }
