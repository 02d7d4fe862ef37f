package ca

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/mtls"
)

// TestSeal: who reads the Secret alone has no key, and the two objects are worth something only together.
func TestSeal(t *testing.T) {
	o := newObjects()
	c := replica(t, o)
	if err := c.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := c.authority.bundle(time.Now())
	text := o.secret.object.Data["root-1.pem"]
	if _, err := mtls.ParseRoot(1, td, text); err == nil || bytes.Contains(text, []byte("PRIVATE KEY")) {
		t.Error("the Secret holds an open key")
	}
	if err := replica(t, o).refresh(t.Context()); err != nil {
		t.Errorf("another replica cannot read it: %v", err)
	}
	good := o.seal.object.DeepCopy()

	fails := func(what, want string) {
		t.Helper()
		writes := o.secret.writes + o.seal.writes
		if err := replica(t, o).refresh(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error about %q", what, err, want)
		}
		if o.secret.writes+o.seal.writes != writes {
			t.Errorf("%s: something was written", what)
		}
	}
	o.seal.delete()
	fails("no seal", "ConfigMap weft-ca-seal is gone")
	if err := c.refresh(t.Context()); err != nil || fmt.Sprint(o.seal.object.Data) != fmt.Sprint(good.Data) {
		t.Errorf("a replica that knows the seal does not bring it back: %v", err)
	}
	o.seal.object.Data = map[string]string{sealKey: "AAAA"}
	fails("a short seal", "not base64 of 32 bytes")
	o.seal.object.Data = map[string]string{sealKey: strings.Repeat("A", 43) + "="}
	fails("another seal", "not sealed by the key")
	o.seal.object.Data = good.Data
	for what, bad := range map[string][]byte{
		"changed": bytes.Replace(text, []byte("\n"), []byte("\nAAAA"), 1),
		"cut off": []byte("-----BEGIN WEFT SEALED ROOT-----\nAAAA\n-----END WEFT SEALED ROOT-----\n"),
	} {
		o.secret.object.Data = map[string][]byte{"root-1.pem": bad}
		fails(what, "Secret weft-ca: root-1.pem")
	}
	o.secret.object.Data = map[string][]byte{"root-2.pem": text}
	fails("under another name", "root-2.pem")
	o.secret.object.Data = map[string][]byte{"root-1.pem": text}
	if again := replica(t, o); again.refresh(t.Context()) != nil || again.authority.bundle(time.Now()) != before {
		t.Error("what is whole again is not read")
	}
}

// TestBroughtRoot: an operator may bring a root of his own, in the open; it is taken and sealed.
func TestBroughtRoot(t *testing.T) {
	root, err := mtls.NewRoot(1, td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := root.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	o := newObjects()
	brought := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: SecretName}, Data: map[string][]byte{"root-1.pem": text}}
	if _, err := o.secret.Create(t.Context(), brought, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := replica(t, o)
	if err := c.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !c.authority.by.Cert.Equal(root.Cert) {
		t.Error("another root signs")
	}
	if !sealed(o.secret.object.Data["root-1.pem"]) {
		t.Error("its key stays open")
	}
}
