package mtls

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

func TestParseIdentity(t *testing.T) {
	for id, want := range map[model.Identity]string{
		"spiffe://cluster.local/ns/default/sa/client":                                 "default client",
		"spiffe://cluster.local/ns/default/sa/a.b-c.d":                                "default a.b-c.d",
		"spiffe://cluster.local/ns/0/sa/1":                                            "0 1",
		"spiffe://CLUSTER.local/ns/a/sa/b":                                            "",
		"spiffe://cluster.local/ns/a/sa/b/":                                           "",
		"spiffe://cluster.local/ns/a/sa/b/c":                                          "",
		"spiffe://cluster.local/ns/a/sa":                                              "",
		"spiffe://cluster.local/sa/a/ns/b":                                            "",
		"spiffe://cluster.local/ns/A/sa/b":                                            "",
		"spiffe://cluster.local/ns/a.b/sa/b":                                          "",
		"spiffe://cluster.local/ns/a_b/sa/b":                                          "",
		"spiffe://cluster.local/ns/-a/sa/b":                                           "",
		"spiffe://cluster.local/ns/../sa/b":                                           "",
		"spiffe://cluster.local/ns/%61/sa/b":                                          "",
		"spiffe://cluster.local/ns/a/sa/b?c":                                          "",
		"spiffe://cluster.local/ns/a/sa/b#c":                                          "",
		"spiffe://cluster.local/ns/a/sa/b\n":                                          "",
		"spiffe://cluster.local:80/ns/a/sa/b":                                         "",
		"spiffe://x@cluster.local/ns/a/sa/b":                                          "",
		"spiffe://other.local/ns/a/sa/b":                                              "",
		"SPIFFE://cluster.local/ns/a/sa/b":                                            "",
		"spiffe://cluster.local/ns/a/sa/b..c":                                         "",
		model.NewIdentity(td, strings.Repeat("a", 64), "b"):                           "",
		model.NewIdentity(td, "a", strings.Repeat("b", 254)):                          "",
		model.Identity("spiffe://cluster.local/ns/a/sa/" + strings.Repeat("b", 3000)): "",
	} {
		ns, sa, err := ParseIdentity(td, id)
		if got := strings.TrimSpace(ns + " " + sa); got != want || (err == nil) != (want != "") {
			t.Errorf("%.100q: %q, %v, want %q", id, got, err, want)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/default/sa/client")
	f.Add("spiffe://cluster.local/ns/%2e/sa/..")
	f.Fuzz(func(t *testing.T, text string) {
		ns, sa, err := ParseIdentity(td, model.Identity(text))
		if err != nil {
			return
		}
		if string(model.NewIdentity(td, ns, sa)) != text || model.Identity(text).Namespace() != ns {
			t.Errorf("%q is read as %q, %q", text, ns, sa)
		}
	})
}

func FuzzParseRoot(f *testing.F) {
	dir := f.TempDir()
	if _, err := OpenCA(Config{TrustDomain: td, StateDir: dir}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, "ca", "root-1.pem"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRoot(1, td, data)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseRoot(1, td, again); err != nil || !back.Cert.Equal(r.Cert) {
			t.Errorf("what was read cannot be read again: %v", err)
		}
	})
}
