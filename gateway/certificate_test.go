package gateway

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// TestCertificateInUseOutlivesItsSecret makes a Secret bad, takes it away, and gives another, while a listener uses it.
func TestCertificateInUseOutlivesItsSecret(t *testing.T) {
	w := newWorld(testConfig)
	chain, key := keyPair()
	secret := func(chain []byte) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cert"},
			Data:       map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key},
		}
	}
	gw := &gwv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "edge"},
		Spec: gwv1.GatewaySpec{GatewayClassName: "weft", Listeners: []gwv1.Listener{{
			Name: "https", Port: 443, Protocol: gwv1.HTTPSProtocolType,
			TLS: &gwv1.ListenerTLSConfig{CertificateRefs: []gwv1.SecretObjectReference{{Name: "cert"}}},
		}}},
	}
	other := gw.DeepCopy()
	other.Spec.Listeners[0].TLS.CertificateRefs[0].Name = "other"
	remove := func(kind, key string) {
		txn := w.objs.Write()
		if err := w.objs.Delete(txn, schema.GroupKind{Kind: kind}, key); err != nil {
			t.Fatal(err)
		}
		txn.Commit()
	}
	refuse := func(message string) {
		const resource = "Secret/cert|ns/cert"
		txn := w.st.Write(w.st.Rejections)
		defer txn.Commit()
		if message == "" {
			w.st.Rejections.Delete(txn, resource)
			return
		}
		w.st.Rejections.Put(txn, &model.Rejection{
			Resource: resource, Objects: []model.ObjectVersion{{ObjectRef: model.ObjectRef{Kind: "Secret", Namespace: "ns", Name: "cert"}}}, Message: message,
		})
	}
	w.put(t, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}}, gw)
	for _, step := range []struct {
		what         string
		do           func()
		served, good bool
	}{
		{"bad from the start", func() { w.put(t, secret([]byte("no chain"))) }, false, false},
		{"valid", func() { w.put(t, secret(chain)) }, true, true},
		{"refused by Envoy", func() { refuse("no such curve") }, true, false},
		{"taken by Envoy", func() { refuse("") }, true, true},
		{"bad in use", func() { w.put(t, secret([]byte("no chain"))) }, true, false},
		{"deleted in use", func() { remove("Secret", "ns/cert") }, true, false},
		{"bad again", func() { w.put(t, secret(nil)) }, true, false},
		{"used no more", func() { w.put(t, other) }, false, false},
		{"used again, still bad", func() { w.put(t, gw) }, false, false},
		{"valid again", func() { w.put(t, secret(chain)) }, true, true},
		{"deleted", func() { remove("Secret", "ns/cert") }, true, false},
		{"deleted, and then used no more", func() { w.put(t, other) }, false, false},
		{"deleted, and used again", func() { w.put(t, gw) }, false, false},
	} {
		step.do()
		w.Sync()
		g, ok := w.st.Gateways.Get(w.st.Snapshot(), "ns/edge")
		listens := ok && slices.Equal(g.Ports[0].Listeners[0].Certificates, []string{"ns/cert"})
		if listens != step.served {
			t.Errorf("%s: the listener is served: %t", step.what, listens)
		}
		c, ok := w.st.Certificates.Get(w.st.Snapshot(), "ns/cert")
		if ok != step.served || ok && string(c.ChainPEM) != string(chain) {
			t.Errorf("%s: certificate %v", step.what, ok)
		}
		conditions := w.st.Statuses.All(w.st.Snapshot())
		for s := range conditions {
			if s.Object.Kind != "Gateway" {
				continue
			}
			for _, c := range s.Listeners[0].Conditions {
				if c.Type == model.ConditionResolvedRefs && (c.Status != step.good || strings.Contains(c.Message, "still served") != (step.served && !step.good)) {
					t.Errorf("%s: %+v", step.what, c)
				}
			}
		}
	}
}
