package xds

import (
	"net/http"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// A request whose endpoint does not answer SYNs goes to another one, soon enough for a route that allows 4 s. It was not
// sent, so its method does not matter, and it arrives once.
func TestSilentEndpoint(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	w := newWorld(t, Config{})
	a, b, silent := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSDisabled, nil), workload(pods[2], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, a, b, silent)
	podRun(t, pods[2], "iptables", "-w", "-A", "INPUT", "-p", "tcp", "-j", "DROP")
	podRun(t, pods[2], "ip6tables", "-w", "-A", "INPUT", "-p", "tcp", "-j", "DROP")
	received := record(t, pods[1], 8080)
	loopbackService(w, "app", endpointOf(b, 0, 8080), endpointOf(silent, 0, 8080))
	timeout := 4 * time.Second
	put(w, w.st.RouteTables, &model.RouteTable{
		Name: model.ServiceTable("shop", "app", PortHTTP),
		VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
			Timeout: &timeout, Backends: []model.Backend{{Namespace: "shop", Name: "app", Port: PortHTTP, Weight: 1}},
		}}}},
	})
	w.envoy()
	w.noRejections()

	const requests = 20
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			method := []string{http.MethodPost, http.MethodGet}[i%2]
			if status := requestBy(t, pods[0], method, "127.0.0.1:15001"); status != http.StatusOK {
				t.Errorf("%s: status %d", method, status)
			}
		})
	}
	wg.Wait()
	if n := len(received()); n != requests {
		t.Errorf("%d requests arrived, want %d", n, requests)
	}
	out, err := podCommand(pods[2], "iptables", "-w", "-vnxL", "INPUT")
	if err != nil {
		t.Fatal(err)
	}
	if dropped := regexp.MustCompile(`(?m)^\s*[1-9]\d*\s.*DROP`); !dropped.MatchString(out) {
		t.Errorf("the silent endpoint was not tried:\n%s", out)
	}
}
