package gateway

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

// asks is a Gateway with a port that asks for an address, or for one of the pool if that is "".
func asks(namespace string, age int, port gwv1.PortNumber, address string) *gwv1.Gateway {
	gw := &gwv1.Gateway{ObjectMeta: created(namespace, "gw", age), Spec: gwv1.GatewaySpec{
		GatewayClassName: "weft", Listeners: []gwv1.Listener{{Name: "l", Port: port, Protocol: gwv1.HTTPProtocolType}},
	}}
	if address != "" {
		gw.Spec.Addresses = []gwv1.GatewaySpecAddress{{Value: address}}
	}
	return gw
}

func gives(gw *gwv1.Gateway, address string) *gwv1.Gateway {
	gw.Status.Addresses = []gwv1.GatewayStatusAddress{{Value: address}}
	return gw
}

func shares(gw *gwv1.Gateway, with string) *gwv1.Gateway {
	gw.Annotations = map[string]string{kube.AnnotationSharedWith: with}
	return gw
}

// servedAt returns the addresses that a namespace's Gateway is served at with a port, and what its status says.
func (w *world) servedAt(namespace string) (string, string) {
	g, ok := w.st.Gateways.Get(w.st.Snapshot(), namespace+"/gw")
	if !ok || len(g.Ports) == 0 {
		return "", w.problemOf("Gateway", namespace, "gw")
	}
	var out []string
	for _, a := range g.Addresses {
		out = append(out, a.String())
	}
	return strings.Join(out, " "), w.problemOf("Gateway", namespace, "gw")
}

// TestAnAddressBelongsToOneNamespace: port 80 beside another namespace's port 443 is enough for a certificate of its name.
func TestAnAddressBelongsToOneNamespace(t *testing.T) {
	const addr = "192.0.2.0"
	for _, c := range []struct {
		name       string
		first      *gwv1.Gateway // applied before the others
		then       []*gwv1.Gateway
		sharing    weftv1.Sharing
		shop, evil string // addresses
	}{
		{"a free port", asks("shop", 5, 443, ""), []*gwv1.Gateway{asks("evil", 1, 80, addr)}, "", addr, ""},
		{"of an address that was asked for", asks("shop", 5, 443, addr), []*gwv1.Gateway{asks("evil", 1, 80, addr)}, "", addr, ""},
		{"the mapped form", asks("shop", 5, 443, addr), []*gwv1.Gateway{asks("evil", 1, 80, "::ffff:"+addr)}, "", addr, ""},
		{"an older Gateway, later", asks("shop", 5, 443, addr), []*gwv1.Gateway{asks("evil", 9, 80, addr)}, "", addr, ""},
		{"an older Gateway and the same port", asks("shop", 5, 443, addr), []*gwv1.Gateway{asks("evil", 9, 443, addr)}, "", addr, ""},
		{"a controller that starts", gives(asks("shop", 5, 443, addr), addr), []*gwv1.Gateway{asks("evil", 9, 80, addr)}, "", addr, ""},
		{"at once the older", nil, []*gwv1.Gateway{asks("shop", 5, 443, addr), asks("evil", 9, 80, addr)}, "", "", addr},
		{"another address", asks("shop", 5, 443, addr), []*gwv1.Gateway{asks("evil", 9, 80, "192.0.2.1")}, "", addr, "192.0.2.1"},
		{"shared with another namespace", shares(asks("shop", 5, 443, addr), "ops"), []*gwv1.Gateway{asks("evil", 9, 80, addr)}, "", addr, ""},
		{"shared", shares(asks("shop", 5, 443, addr), "ops, evil"), []*gwv1.Gateway{asks("evil", 9, 80, addr)}, "", addr, addr},
		{"shared by who does not have it", asks("shop", 5, 443, addr), []*gwv1.Gateway{shares(asks("evil", 9, 80, addr), "evil,shop")}, "", addr, ""},
		{"shared by the pool", asks("shop", 5, 443, addr), []*gwv1.Gateway{asks("evil", 9, 80, addr)}, weftv1.SharingCluster, addr, addr},
		{"the pool says the default", asks("shop", 5, 443, addr), []*gwv1.Gateway{asks("evil", 9, 80, addr)}, weftv1.SharingNamespace, addr, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(configOf("controller-"))
			w.put(t, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
				&weftv1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: weftv1.AddressPoolSpec{Addresses: []string{"192.0.2.0/30"}, Sharing: c.sharing}})
			if c.first != nil {
				w.put(t, c.first)
				if len(c.first.Status.Addresses) == 0 {
					w.Sync()
				}
			}
			for _, gw := range c.then {
				w.put(t, gw)
			}
			w.Sync()
			for namespace, want := range map[string]string{"shop": c.shop, "evil": c.evil} {
				got, problem := w.servedAt(namespace)
				if got != want {
					t.Errorf("%s is served at %q, want %q: %s", namespace, got, want, problem)
				}
				if want == "" && !strings.Contains(problem, "belongs to Gateway") {
					t.Errorf("the status of %s says %q", namespace, problem)
				}
			}
		})
	}
}

// TestAGatewayThatIsMadeAgainHasItsAddress: a Service that waits for a pool's address never gets it.
func TestAGatewayThatIsMadeAgainHasItsAddress(t *testing.T) {
	cfg := configOf("controller-")
	cfg.ExternalIPs = everything
	w := newWorld(cfg)
	service := &corev1.Service{ObjectMeta: created("evil", "waits", 9), Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.9", ExternalIPs: []string{"192.0.2.0"}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	w.put(t, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&weftv1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: weftv1.AddressPoolSpec{Addresses: []string{"192.0.2.0/32"}}},
		service, asks("shop", 5, 80, ""))
	w.Sync()
	txn := w.objs.Write()
	if err := w.objs.Delete(txn, schema.GroupKind{Group: gwv1.GroupName, Kind: "Gateway"}, "shop/gw"); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	w.Sync()
	if got := w.service(t, "evil/waits").Addresses; len(got) != 1 || got[0].String() != "10.96.0.9" {
		t.Errorf("without the Gateway the Service has %v", got)
	}
	w.put(t, asks("shop", 1, 80, ""))
	w.Sync()
	if got, problem := w.servedAt("shop"); got != "192.0.2.0" {
		t.Errorf("the Gateway that is made again has %q: %s", got, problem)
	}
}
