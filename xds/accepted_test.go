package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weft-mesh/weft/internal/model"
)

var (
	podP     = model.Subject{Kind: model.SubjectWorkload, Name: "shop/p"}
	serviceS = model.Subject{Kind: model.SubjectService, Name: "shop/s1"}
	gatewayG = model.Subject{Kind: model.SubjectGateway, Name: "shop/gw"}
)

// row returns what is written of a subject, and the revision that its own row has now.
func (w *world) row(s model.Subject) (row *model.Accepted, now uint64) {
	w.t.Helper()
	w.reported()
	snap := w.st.Snapshot()
	row, _ = w.st.Accepted.Get(snap, s.Key())
	switch s.Kind {
	case model.SubjectWorkload:
		_, now, _ = w.st.Workloads.Revision(snap, s.Name)
	case model.SubjectService:
		_, now, _ = w.st.Services.Revision(snap, s.Name)
	case model.SubjectGateway:
		_, now, _ = w.st.Gateways.Revision(snap, s.Name)
	}
	return row, now
}

// upToDate returns an error unless Envoy has accepted all of a subject as it is now.
func (w *world) upToDate(s model.Subject) error {
	w.t.Helper()
	row, now := w.row(s)
	if row == nil || row.Revision != now || row.Error != "" {
		return fmt.Errorf("%s: %+v, want revision %d", s.Key(), row, now)
	}
	return nil
}

func (w *world) wantUpToDate(s model.Subject) {
	w.t.Helper()
	until(w.t, "Envoy has accepted "+s.Key(), func() error { return w.upToDate(s) })
}

// acceptedPod is a pod with an identity and a policy that looks at requests: it needs a resource of each kind.
func acceptedPod(labels map[string]string, policies ...string) *model.Workload {
	w := &model.Workload{
		Namespace: "shop", Name: "p", Identity: identity("shop", "p"), MTLS: model.MTLSStrict, Local: true, NetNS: "/run/netns/p",
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, Labels: labels,
	}
	if len(policies) > 0 {
		w.Policy = &model.Policy{Names: policies, Rules: []model.PolicyRule{
			{HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}, Sources: []model.PolicySource{{Namespace: policies[0]}}},
		}}
	}
	return w
}

// node subscribes as an Envoy on a node does, to all that the wildcards do not hold too, and answers until nothing is
// left.
func (c *client) node(names map[string][]string) {
	c.t.Helper()
	for _, url := range []string{TypeListener, TypeCluster, TypeScope} {
		c.subscribe(url)
	}
	for url, names := range names {
		c.subscribe(url, names...)
	}
	c.drain()
}

// drain answers until nothing is left.
func (c *client) drain() {
	c.t.Helper()
	last := fmt.Sprint("drain?", c.drained)
	c.drained++
	c.subscribe(TypeSecret, last)
	for {
		if r := c.next(); r.TypeUrl == TypeSecret && slices.Contains(r.RemovedResources, last) {
			return
		}
	}
}

// takes answers until all of a subject is accepted.
func (c *client) takes(w *world, s model.Subject) {
	c.t.Helper()
	until(c.t, "the client has accepted "+s.Key(), func() error {
		c.drain()
		return w.upToDate(s)
	})
}

var podNames = map[string][]string{
	TypeFilter: {"shop/p/out-http", "shop/p/hbone", "shop/p/in", "shop/p/in-http"},
	TypeSecret: {serverPrefix + string(identity("shop", "p")), SecretRootCA},
}

func TestAcceptedWorkload(t *testing.T) {
	w := newWorld(t, Config{})
	put(w, w.st.Workloads, acceptedPod(nil, "ops"))
	if row, _ := w.row(podP); row != nil {
		t.Errorf("no Envoy is connected, and there is %+v", row)
	}
	c := w.client()
	c.node(podNames)
	if err := w.upToDate(podP); err == nil {
		t.Error("accepted, and there is no certificate")
	}
	put(w, w.st.SVIDs, w.ca.svid(identity("shop", "p")))
	c.takes(w, podP)

	// A change that alters no resource.
	put(w, w.st.Workloads, acceptedPod(map[string]string{"a": "b"}, "ops"))
	w.wantUpToDate(podP)

	// One that Envoy refuses: the last one that it accepted is kept, and the row says why.
	_, before := w.row(podP)
	c.refuse = func(r *discovery.DeltaDiscoveryResponse) string {
		if r.TypeUrl == TypeFilter {
			return "no such policy"
		}
		return ""
	}
	put(w, w.st.Workloads, acceptedPod(nil, "dev"))
	until(t, "the refusal is written", func() error {
		c.drain()
		row, now := w.row(podP)
		if row == nil || row.Revision != before || now == before || !strings.Contains(row.Error, "no such policy") {
			return fmt.Errorf("%+v, before %d, now %d", row, before, now)
		}
		return nil
	})
	c.refuse = nil
	put(w, w.st.Workloads, acceptedPod(nil, "test"))
	c.takes(w, podP)

	// The namespace goes. What comes to its path next may be another workload's, so Envoy has no listener that opens it.
	put(w, w.st.Placements, &model.Placement{Namespace: "shop", Name: "p", NetNS: "/run/netns/p"})
	until(t, "Envoy has no listener in a namespace that is not there", func() error {
		c.drain()
		for name := range c.have[TypeListener] {
			if strings.HasPrefix(name, "shop/p/") {
				return fmt.Errorf("it has %s", name)
			}
		}
		return nil
	})
	if err := w.upToDate(podP); err == nil {
		t.Error("accepted, and there is no namespace to listen in")
	}
	// Another namespace at the same path: Envoy has to listen there first.
	put(w, w.st.Placements, &model.Placement{Namespace: "shop", Name: "p", NetNS: "/run/netns/p", Inode: 7})
	c.takes(w, podP)

	remove(w, w.st.Workloads, "shop/p")
	until(t, "the row is gone", func() error {
		c.drain()
		if row, _ := w.row(podP); row != nil {
			return fmt.Errorf("%+v", row)
		}
		return nil
	})
}

// What one Envoy accepted counts as long as it is connected: in a hot restart there are two.
func TestAcceptedByWhom(t *testing.T) {
	w := newWorld(t, Config{})
	put(w, w.st.Workloads, acceptedPod(nil, "ops"))
	put(w, w.st.SVIDs, w.ca.svid(identity("shop", "p")))
	a := w.client()
	a.node(podNames)
	a.takes(w, podP)
	b := w.client()
	b.refuse = func(*discovery.DeltaDiscoveryResponse) string { return "not yet" }
	b.subscribe(TypeListener)
	b.drain()
	w.wantUpToDate(podP)
	until(t, "Envoy's row is there", func() error {
		if !w.st.EnvoyConnected(w.st.Snapshot()) {
			return errors.New("it is not")
		}
		return nil
	})
	a.close()
	until(t, "the other one has nothing", func() error {
		if row, _ := w.row(podP); row == nil || row.Revision != 0 {
			return fmt.Errorf("%+v", row)
		}
		return nil
	})
	c := w.client()
	c.node(podNames)
	c.takes(w, podP)
	b.close()
	w.wantUpToDate(podP)
	c.close()
	until(t, "the row is gone", func() error {
		if row, _ := w.row(podP); row != nil || w.st.EnvoyConnected(w.st.Snapshot()) {
			return fmt.Errorf("%+v, or Envoy's", row)
		}
		return nil
	})
	// An Envoy that comes back with what it had accepted has nothing to accept again.
	d := w.client()
	d.have = c.have
	d.node(podNames)
	d.takes(w, podP)
}

func TestAcceptedService(t *testing.T) {
	w := newWorld(t, Config{})
	put(w, w.st.Workloads, acceptedPod(nil))
	l7(w, 1)
	c := w.client()
	c.node(nil)
	c.takes(w, serviceS)
	s, _ := w.st.Services.Get(w.st.Snapshot(), "shop/s1")
	port := func(ports ...model.ServicePort) {
		next := *s
		next.Ports = ports
		put(w, w.st.Services, &next)
	}
	c.refuse = func(*discovery.DeltaDiscoveryResponse) string { return "no" }
	port(model.ServicePort{Port: 80, Protocol: model.TCP, L7: true}, model.ServicePort{Port: 81, Protocol: model.TCP, L7: true})
	until(t, "the refusal is written", func() error {
		c.drain()
		if row, now := w.row(serviceS); row == nil || row.Revision == now || row.Error == "" {
			return fmt.Errorf("%+v, now %d", row, now)
		}
		return nil
	})
	c.refuse = nil
	port(model.ServicePort{Port: 80, Protocol: model.TCP, L7: true}, model.ServicePort{Port: 82, Protocol: model.TCP, L7: true})
	c.takes(w, serviceS)
	port(model.ServicePort{Port: 80, Protocol: model.TCP})
	until(t, "a service without L7 ports has no row", func() error {
		if row, _ := w.row(serviceS); row != nil {
			return fmt.Errorf("%+v", row)
		}
		return nil
	})
}

// A real Envoy accepts a pod, a service and a Gateway.
func TestAcceptedByEnvoy(t *testing.T) {
	m := newServed(t, defaultTimeouts)
	for _, s := range []model.Subject{
		{Kind: model.SubjectWorkload, Name: m.wa.Key()}, {Kind: model.SubjectWorkload, Name: m.wb.Key()},
		{Kind: model.SubjectService, Name: "shop/app"}, gatewayG,
	} {
		m.wantUpToDate(s)
	}
}
