package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

func tlsPolicyFor(namespace, name, service string, created int, configMaps ...string) *gwv1.BackendTLSPolicy {
	p := &gwv1.BackendTLSPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(created), 0))}}
	p.Spec.TargetRefs = []gwv1.LocalPolicyTargetReferenceWithSectionName{{LocalPolicyTargetReference: gwv1.LocalPolicyTargetReference{Kind: "Service", Name: gwv1.ObjectName(service)}}}
	p.Spec.Validation.Hostname = "a.example"
	for _, m := range configMaps {
		p.Spec.Validation.CACertificateRefs = append(p.Spec.Validation.CACertificateRefs, gwv1.LocalObjectReference{Kind: "ConfigMap", Name: gwv1.ObjectName(m)})
	}
	return p
}

func caConfigMap(namespace, name, text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{kube.CACertificateKey: text}}
}

func tcpService(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
}

// TestBundleChanges: what a ConfigMap holds is followed, and nothing that it held before stays in force.
func TestBundleChanges(t *testing.T) {
	w := newWorld(testConfig)
	pem, _ := keyPair()
	w.put(t, tcpService("ns", "web"), tlsPolicyFor("ns", "p", "web", 1, "ca"))
	for _, step := range []struct {
		name, text string
		valid      bool
		says       string
	}{
		{"not there", "", false, "no ConfigMap"},
		{"certificates", string(pem), true, ""},
		{"text around them", "# a\n" + string(pem) + "b", true, ""},
		{"empty", " \n", false, "has no ca.crt"},
		{"long", string(pem) + strings.Repeat("\n", MaxCABundle), false, "longer than 64 KiB"},
		{"cut", string(pem)[:len(pem)/2], false, "no certificate in PEM"},
		{"no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", false, "cannot be read"},
		{"one of two broken", string(pem) + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", false, "cannot be read"},
		{"certificates again", string(pem), true, ""},
	} {
		if step.name != "not there" {
			w.put(t, caConfigMap("ns", "ca", step.text))
		}
		w.Sync()
		row, ok := w.st.BackendTLS.Get(w.st.Snapshot(), "ns/web/80")
		if !ok || row.Invalid == step.valid || step.valid && row.CA != string(pem) {
			t.Errorf("%s: %+v", step.name, row)
		}
		s, _ := w.st.Statuses.Get(w.st.Snapshot(), tlsPolicyRef("ns", "p").String())
		if p := problem(s); !strings.Contains(p, step.says) || step.valid && p != "" {
			t.Errorf("%s: the status says %q", step.name, p)
		}
	}
}

// TestJoinedBundlesAreBounded: several ConfigMaps together hold no more than one may.
func TestJoinedBundlesAreBounded(t *testing.T) {
	w := newWorld(testConfig)
	pem, _ := keyPair()
	w.put(t, tcpService("ns", "web"), tlsPolicyFor("ns", "p", "web", 1, "a", "b"))
	many := func(tag string) string { // other certificates cannot be had fast; the text must differ
		return strings.Repeat(string(pem), MaxCABundle/len(pem)*2/3) + tag
	}
	w.put(t, caConfigMap("ns", "a", many("")), caConfigMap("ns", "b", string(pem)+many("")))
	w.Sync()
	row, _ := w.st.BackendTLS.Get(w.st.Snapshot(), "ns/web/80")
	s, _ := w.st.Statuses.Get(w.st.Snapshot(), tlsPolicyRef("ns", "p").String())
	if row.Invalid || len(row.CA) > MaxCABundle || !strings.Contains(problem(s), "all references together") {
		t.Errorf("%d bytes, %s", len(row.CA), problem(s))
	}
}

// TestUsedConfigMaps: one namespace does not use up what there is for all, and the older objects are served.
func TestUsedConfigMaps(t *testing.T) {
	w := newWorld(testConfig)
	for i := range maxConfigMapsOfNamespace + 3 {
		w.put(t, tlsPolicyFor("greedy", fmt.Sprintf("p%03d", i), "web", 100-i%7, fmt.Sprint("ca", i)))
	}
	w.put(t, tlsPolicyFor("shop", "p", "web", 200, "ca", "ca", "other"))
	keys, left := UsedConfigMaps(w.objs, ControllerName, w.st.Snapshot())
	if len(keys) != maxConfigMapsOfNamespace+2 || left != 3 || !slices.Contains(keys, "shop/ca") || !slices.Contains(keys, "shop/other") {
		t.Errorf("%d ConfigMaps, %d left out", len(keys), left)
	}
}

// TestConfigMapsOfGateways: those of our classes count, and of other namespaces those that a ReferenceGrant lets them use.
func TestConfigMapsOfGateways(t *testing.T) {
	w := newWorld(testConfig)
	gateway := func(namespace, name, class string, refs ...string) *gwv1.Gateway {
		gw := httpsGateway(namespace, name, class)
		val := &gwv1.FrontendTLSValidation{}
		for _, key := range refs {
			ns, name, _ := strings.Cut(key, "/")
			val.CACertificateRefs = append(val.CACertificateRefs, gwv1.ObjectReference{Kind: "ConfigMap", Namespace: new(gwv1.Namespace(ns)), Name: gwv1.ObjectName(name)})
		}
		gw.Spec.TLS = &gwv1.GatewayTLSConfig{Frontend: &gwv1.FrontendTLSConfig{Default: gwv1.TLSConfig{Validation: val}}}
		return gw
	}
	w.put(t, classOf("weft", ControllerName), classOf("other", "example.com/controller"),
		gateway("edge", "a", "weft", "edge/ca", "vault/shared", "vault/closed"), gateway("edge", "b", "other", "edge/theirs"),
		&gwv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "g"}, Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "Gateway", Namespace: "edge"}},
			To:   []gwv1.ReferenceGrantTo{{Kind: "ConfigMap", Name: new(gwv1.ObjectName("shared"))}},
		}})
	if keys, left := UsedConfigMaps(w.objs, ControllerName, w.st.Snapshot()); !slices.Equal(keys, []string{"edge/ca", "vault/shared"}) || left != 0 {
		t.Errorf("%v, %d left out", keys, left)
	}
	if !w.RefersToCertificates(w.st.Snapshot()) {
		t.Error("the Gateway refers to none")
	}
}

func FuzzParseBundle(f *testing.F) {
	pem, key := keyPair()
	for _, s := range []string{"", string(pem), string(pem) + string(key), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "-----BEGIN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out, err := parseBundle(text)
		if err != nil {
			return
		}
		if again, err := parseBundle(out); err != nil && len(out) <= MaxCABundle || err == nil && again != out {
			t.Errorf("%q is read as %q, and that as %q, %v", text, out, again, err)
		}
	})
}
