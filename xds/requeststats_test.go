package xds

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

// requestCounters reads what a real Envoy has counted, without the address, by "reporter source > peer cluster code flags
// policy".
func requestCounters(t *testing.T, e *envoy) map[string]bool {
	t.Helper()
	text, err := e.get("/stats?usedonly&filter=^weft")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, line := range strings.Split(text, "\n") {
		if line != "" {
			got[line] = true
		}
	}
	return got
}

// TestRequestStats: a real Envoy counts requests at both ends, by who owns the pods.
func TestRequestStats(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	w := newWorld(t, Config{RequestStats: true})
	a, c := workload(pods[0], "shop", model.MTLSStrict, nil), workload(pods[2], "shop", model.MTLSDisabled, nil)
	b := workload(pods[1], "shop", model.MTLSStrict, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{
		HTTP: []model.HTTPRule{{Paths: []model.PathMatch{{Type: model.MatchPrefix, Value: "/open"}}}},
	}}})
	a.Owner, b.Owner = model.Owner{Kind: "Deployment", Name: "web.v1"}, model.Owner{Kind: "StatefulSet", Name: "db"}
	put(w, w.st.Workloads, a, b, c)
	put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(b.Identity))
	echo(t, pods[1], 8080, "b")
	echo(t, pods[2], 8080, "c")
	e := w.envoy()
	// send asks until the backend itself answers: just after the change, the one before may.
	send := func(backend model.Endpoint, path string, want int, from string) {
		t.Helper()
		loopbackService(w, "echo", backend)
		until(t, path, func() error {
			status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", path)
			if err != nil || status != want || !strings.HasPrefix(body, from) {
				return fmt.Errorf("%d %s %w", status, body, err)
			}
			return nil
		})
	}
	toB := endpointOf(b, 0, 8080)
	toB.Owner = b.Owner
	send(endpointOf(c, 0, 8080), "/open", 200, "c")
	send(toB, "/open", 200, "b")
	send(toB, "/closed", 403, "")
	web, db := "shop/Deployment/web.v1 "+string(a.Identity), "shop/StatefulSet/db "+string(b.Identity)
	source := "weft.requests.|by.source.|own." + web + ".|addr.127.0.0.1:15001.|peer."
	destination := "weft.requests.|by.destination.|own." + db + ".|addr." + pods[0].Address.String() + ".|peer." + string(a.Identity)
	// A name of Envoy's does not end with the dot before an empty value.
	const cluster, tail = ".|cluster.service/shop/echo/15001", ".|flags.-.|grpc"
	for _, want := range []string{
		source + "shop/Pod/c" + cluster + ".|code.200" + tail,
		source + db + cluster + ".|code.200" + tail,
		source + db + cluster + ".|code.403" + tail,
		destination + ".|code.200" + tail + "..|policy.allowed",
		destination + ".|code.403" + tail + "..|policy.denied",
	} {
		until(t, want, func() error {
			got := requestCounters(t, e)
			for line := range got {
				if strings.HasPrefix(line, want+": ") {
					return nil
				}
			}
			return fmt.Errorf("not counted; there is %v", got)
		})
	}
	w.noRejections()
}
