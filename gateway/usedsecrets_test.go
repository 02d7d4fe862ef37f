package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

func httpsGateway(namespace, name, class string, secrets ...string) *gwv1.Gateway {
	gw := &gwv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       gwv1.GatewaySpec{GatewayClassName: gwv1.ObjectName(class)},
	}
	for i, key := range secrets {
		ns, secret, _ := strings.Cut(key, "/")
		gw.Spec.Listeners = append(gw.Spec.Listeners, gwv1.Listener{
			Name: gwv1.SectionName(fmt.Sprint("l", i)), Port: 443, Protocol: gwv1.HTTPSProtocolType,
			Hostname: new(gwv1.Hostname(fmt.Sprintf("h%d.example", i))),
			TLS: &gwv1.ListenerTLSConfig{CertificateRefs: []gwv1.SecretObjectReference{
				{Namespace: new(gwv1.Namespace(ns)), Name: gwv1.ObjectName(secret)},
			}},
		})
	}
	return gw
}

func classOf(name, controller string) *gwv1.GatewayClass {
	return &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: gwv1.GatewayClassSpec{ControllerName: gwv1.GatewayController(controller)}}
}

// TestUsedSecrets: what a node that serves Gateways is sent is what its listeners may use, and nothing else.
func TestUsedSecrets(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), classOf("other", "example.com/controller"))
	grant := &gwv1.ReferenceGrant{
		ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "to-edge"},
		Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "Gateway", Namespace: "edge"}},
			To:   []gwv1.ReferenceGrantTo{{Kind: "Secret", Name: new(gwv1.ObjectName("shared"))}},
		},
	}
	noAddress := httpsGateway("edge", "no-address", "weft", "edge/idle")
	noAddress.Spec.Addresses = []gwv1.GatewaySpecAddress{{Type: new(gwv1.HostnameAddressType), Value: "a.example"}}
	for _, step := range []struct {
		what string
		put  []runtime.Object
		gone schema.GroupKind
		key  string
		want []string
	}{
		{what: "nothing", want: nil},
		{what: "a Gateway of ours", put: []runtime.Object{httpsGateway("edge", "a", "weft", "edge/x", "edge/y")}, want: []string{"edge/x", "edge/y"}},
		{what: "one of another class", put: []runtime.Object{httpsGateway("edge", "b", "other", "edge/z")}, want: []string{"edge/x", "edge/y"}},
		{what: "one without an address", put: []runtime.Object{noAddress}, want: []string{"edge/x", "edge/y"}},
		{what: "without a ReferenceGrant", put: []runtime.Object{httpsGateway("edge", "a", "weft", "edge/x", "vault/shared", "vault/other")}, want: []string{"edge/x"}},
		{what: "with one", put: []runtime.Object{grant}, want: []string{"edge/x", "vault/shared"}},
		{what: "for another namespace", put: []runtime.Object{httpsGateway("shop", "c", "weft", "vault/shared")}, want: []string{"edge/x", "vault/shared"}},
		{what: "the grant goes", gone: schema.GroupKind{Group: gwv1.GroupName, Kind: "ReferenceGrant"}, key: "vault/to-edge", want: []string{"edge/x"}},
		{what: "the Gateway goes", gone: schema.GroupKind{Group: gwv1.GroupName, Kind: "Gateway"}, key: "edge/a", want: nil},
	} {
		w.put(t, step.put...)
		if step.key != "" {
			txn := w.objs.Write()
			if err := w.objs.Delete(txn, step.gone, step.key); err != nil {
				t.Fatal(err)
			}
			txn.Commit()
		}
		w.Sync()
		if got, left := w.UsedSecrets(w.st.Snapshot()); !slices.Equal(got, step.want) || left != 0 {
			t.Errorf("%s: %v are used, %d left out, want %v", step.what, got, left, step.want)
		}
	}
}

// TestUsedSecretsAreBounded: one namespace's Gateways do not use up what there is for all.
func TestUsedSecretsAreBounded(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName))
	for i := range maxSecretsOfNamespace/maxListeners + 2 {
		var refs []string
		for j := range maxListeners {
			refs = append(refs, fmt.Sprintf("greedy/s%d-%d", i, j))
		}
		w.put(t, httpsGateway("greedy", fmt.Sprintf("g%02d", i), "weft", refs...))
	}
	w.put(t, httpsGateway("shop", "web", "weft", "shop/web"))
	w.Sync()
	got, left := w.UsedSecrets(w.st.Snapshot())
	if len(got) != maxSecretsOfNamespace+1 || left != 2*maxListeners || !slices.Contains(got, "shop/web") {
		t.Errorf("%d Secrets are used, %d left out", len(got), left)
	}
}

// TestNodeThatServesNoGateways: a node whose role says so listens for none and holds no key, until the role changes.
func TestNodeThatServesNoGateways(t *testing.T) {
	w := newWorld(testConfig)
	chain, key := keyPair()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "x"},
		Data:       map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key},
	}
	w.put(t, classOf("weft", ControllerName), httpsGateway("edge", "a", "weft", "edge/x"), secret)
	for _, step := range []struct {
		role *model.NodeRole
		want int
	}{{nil, 1}, {&model.NodeRole{Gateways: false}, 0}, {&model.NodeRole{Gateways: true}, 1}} {
		if step.role != nil {
			txn := w.st.Write(w.st.Role)
			w.st.Role.Put(txn, step.role)
			txn.Commit()
		}
		w.Sync()
		s := w.st.Snapshot()
		for table, n := range map[string]int{
			"Gateways": w.st.Gateways.Len(s), "Certificates": w.st.Certificates.Len(s), "route tables": w.st.RouteTables.Len(s),
		} {
			if n != step.want {
				t.Errorf("role %+v: %d %s", step.role, n, table)
			}
		}
	}
}

// TestLongSecret: what is longer than any chain of certificates is not taken, and the listener says so.
func TestLongSecret(t *testing.T) {
	w := newWorld(testConfig)
	chain, key := keyPair()
	w.put(t, classOf("weft", ControllerName), httpsGateway("edge", "a", "weft", "edge/x"), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "x"},
		Data: map[string][]byte{
			corev1.TLSCertKey: slices.Concat(chain, []byte(strings.Repeat("\n", MaxCertificate))), corev1.TLSPrivateKeyKey: key,
		},
	})
	w.Sync()
	if n := w.st.Certificates.Len(w.st.Snapshot()); n != 0 {
		t.Errorf("%d certificates", n)
	}
	for _, s := range w.statuses() {
		for _, l := range s.Listeners {
			for _, c := range l.Conditions {
				if c.Type == model.ConditionResolvedRefs && !strings.Contains(c.Message, "more than 64 KiB") {
					t.Errorf("the listener says %q", c.Message)
				}
			}
		}
	}
}
