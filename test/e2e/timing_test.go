//go:build cluster

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/test/e2e/workload"
)

const (
	timedRoutes    = 1000
	timedServices  = 20
	flipEvery      = 200 * time.Millisecond
	flipsLast      = time.Minute
	edgeTimed      = 200
	answersWithin  = 30 * time.Second // else the test fails: no route takes so long
	timedNamespace = "e2e-timed"
)

// TestTimeToFirstAnswer applies 1,000 routes one after another, and measures for each how long it takes from the
// request that applies it to the first request that it answers, sent by a pod or to a Gateway: a path without a route
// is answered with 404.
func TestTimeToFirstAnswer(t *testing.T) {
	background(t)
	ns := timedNamespace
	namespace(t, ns, "")
	deploy(t, deployment{namespace: ns, name: "web"}, deployment{namespace: ns, name: "client", node: "n1"})
	apply(t, service(ns, "web", "web")+httpGateway(ns, "edge", ""))
	for i := range timedServices {
		name := fmt.Sprintf("s%d", i)
		apply(t, service(ns, name, "web")+timed(ns, "first-"+name+"-", 0, serviceParent(name), "web"))
	}
	t.Run("pods", func(t *testing.T) {
		addresses := map[string]string{}
		for i := range timedServices {
			name := fmt.Sprintf("s%d", i)
			addresses[name] = clusterIP(t, ns, name)
			eventually(t, settle, func() error { // a Service without any route answers all paths
				if a := call(t, ns, "client", "http://"+addresses[name]+"/none"); a.Status != 404 {
					return fmt.Errorf("Service %s with one route, at another path: %+v", name, a)
				}
				return nil
			})
		}
		p := poller(t, ns)
		var times []time.Duration
		for i := 1; i <= timedRoutes; i++ {
			name := fmt.Sprintf("s%d", i%timedServices)
			times = append(times, p.first(timed(ns, "m", i, serviceParent(name), "web"), fmt.Sprintf("http://%s/%d", addresses[name], i)))
		}
		spread(t, times)
	})
	t.Run("gateway", func(t *testing.T) {
		p := poller(t, ns)
		address := gatewayAddress(t, ns, "edge")
		var times []time.Duration
		for i := range edgeTimed {
			times = append(times, p.first(timed(ns, "g", i, "{name: edge}", "web"), fmt.Sprintf("http://%s/%d", address, i)))
		}
		spread(t, times)
	})
}

func serviceParent(name string) string {
	return fmt.Sprintf(`{group: "", kind: Service, name: %s, port: 80}`, name)
}

func timed(ns, prefix string, i int, parent, service string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[2]s%[3]d, namespace: %[1]s}
spec:
  parentRefs: [%[4]s]
  rules:
    - matches: [{path: {type: Exact, value: /%[3]d}}]
      backendRefs: [{name: %[5]s, port: 80}]
`, ns, prefix, i, parent, service)
}

// polling is a client in a pod that asks for a path every millisecond until it is answered.
type polling struct {
	t     *testing.T
	lines *bufio.Scanner
	ask   io.Writer
}

func poller(t *testing.T, ns string) *polling {
	t.Helper()
	cmd := mesh.KubectlCommand(t.Context(), "-n", ns, "exec", "-i", "deployment/client", "--", workloadPath, "poll")
	ask, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ask.Close()
		_ = cmd.Wait()
	})
	return &polling{t: t, lines: bufio.NewScanner(answers), ask: ask}
}

// first applies a route and gives the time to the first answer at a URL.
func (p *polling) first(route, url string) time.Duration {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.ask, url); err != nil {
		p.t.Fatal(err)
	}
	began := time.Now()
	if err := applyText(p.t.Context(), route); err != nil {
		p.t.Fatal(err)
	}
	if !p.lines.Scan() {
		p.t.Fatalf("the client ended: %v", p.lines.Err())
	}
	at, err := strconv.ParseInt(strings.TrimSpace(p.lines.Text()), 10, 64)
	if err != nil || at == 0 {
		p.t.Fatalf("%s is not answered: %q", url, p.lines.Text())
	}
	took := time.Unix(0, at).Sub(began)
	if took > answersWithin {
		p.t.Fatalf("%s was answered after %s", url, took)
	}
	return took
}

func spread(t *testing.T, times []time.Duration) {
	t.Helper()
	slices.Sort(times)
	var sum time.Duration
	for _, d := range times {
		sum += d
	}
	measured(t, "routes", len(times))
	measured(t, "mean", sum/time.Duration(len(times)))
	measured(t, "median", times[len(times)/2])
	measured(t, "p99", times[len(times)*99/100])
	measured(t, "worst", times[len(times)-1])
}

// TestFlips turns a route between two backends every 200 ms for a minute: no answer but 200.
func TestFlips(t *testing.T) {
	ns := "e2e-flips"
	namespace(t, ns, "")
	apply(t, service(ns, "web", "web")+service(ns, "v1", "v1")+service(ns, "v2", "v2")+route(ns, "web", "web", backend{"v1", 1}))
	deploy(t, deployment{namespace: ns, name: "v1"}, deployment{namespace: ns, name: "v2"},
		deployment{namespace: ns, name: "client", node: "n1"})
	url := "http://" + clusterIP(t, ns, "web") + "/"
	all := both(flow{name: "flips", namespace: ns, client: "client", spec: workload.Spec{URL: url, Workers: 4, Rate: 150}})
	works(t, all)
	f := begin(t, all...)
	flips := 0
	tick := time.NewTicker(flipEvery)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < flipsLast; flips++ {
		<-tick.C
		apply(t, route(ns, "web", "web", backend{[]string{"v2", "v1"}[flips%2], 1}))
	}
	measured(t, "flips", flips)
	for name, s := range f.end() {
		if s.Backends["v1"] == 0 || s.Backends["v2"] == 0 {
			t.Errorf("%s: answers came from %v, want both", name, s.Backends)
		}
	}
}
