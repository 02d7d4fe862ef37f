package mtls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const td = "cluster.local"

func openCA(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := OpenCA(Config{TrustDomain: td, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, src *CA, id model.Identity) *model.SVID {
	t.Helper()
	svid, err := src.Issue(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

// verify checks an SVID against a bundle as a peer does, by the clock of the test.
func verify(svid *model.SVID, bundle *model.Bundle) error {
	domain, err := spiffeid.TrustDomainFromString(bundle.TrustDomain)
	if err != nil {
		return err
	}
	roots, err := x509bundle.Parse(domain, bundle.PEM)
	if err != nil {
		return err
	}
	parsed, err := x509svid.Parse(svid.ChainPEM, svid.KeyPEM)
	if err != nil {
		return err
	}
	id, _, err := x509svid.Verify(parsed.Certificates, roots, x509svid.WithTime(time.Now()))
	if err == nil && id.String() != string(svid.Identity) {
		err = errors.New("certificate of " + id.String())
	}
	return err
}

func TestIssue(t *testing.T) {
	ca := openCA(t, t.TempDir())
	id := model.NewIdentity(td, "default", "client")
	svid := issue(t, ca, id)
	if err := verify(svid, ca.Bundle()); err != nil {
		t.Error(err)
	}
	if err := verify(svid, openCA(t, t.TempDir()).Bundle()); err == nil {
		t.Error("another CA's bundle verifies it")
	}
	pair, err := tls.X509KeyPair(svid.ChainPEM, svid.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.Subject.String() != "" {
		t.Errorf("names beside the URI: %v %v %v %v", leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses, leaf.Subject)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("CA %v, key usage %v, extended %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve.Params().Name != "P-256" {
		t.Errorf("public key %T", leaf.PublicKey)
	}
	if life := time.Until(leaf.NotAfter); life > DefaultTTL || life < DefaultTTL-time.Minute {
		t.Errorf("lives %v, want %v", life, DefaultTTL)
	}
	if !leaf.NotBefore.Before(time.Now().Add(-time.Minute)) {
		t.Errorf("not before %v: no room for clocks that differ", leaf.NotBefore)
	}
	if other := issue(t, ca, id); other.Serial == svid.Serial || bytes.Equal(other.KeyPEM, svid.KeyPEM) {
		t.Error("a second SVID has the serial or the key of the first")
	}
	for _, bad := range []model.Identity{"", "spiffe://other/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/", "https://cluster.local/ns/a/sa/b"} {
		if _, err := ca.Issue(context.Background(), bad); err == nil {
			t.Errorf("an SVID for %q", bad)
		}
	}
}

func TestCAOverReopen(t *testing.T) {
	dir := t.TempDir()
	first := openCA(t, dir)
	svid := issue(t, first, model.NewIdentity(td, "a", "b"))
	second := openCA(t, dir)
	if err := verify(svid, second.Bundle()); err != nil {
		t.Errorf("after a reopen: %v", err)
	}
	if !bytes.Equal(first.Bundle().PEM, second.Bundle().PEM) {
		t.Error("the bundle changed")
	}
	for path, want := range map[string]fs.FileMode{"ca": 0o700, "ca/root-1.pem": 0o600} {
		fi, err := os.Stat(filepath.Join(dir, path))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, fi.Mode(), err, want)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "ca", ".new-*")); len(names) > 0 {
		t.Errorf("%v is left", names)
	}
	if _, err := OpenCA(Config{TrustDomain: "other.domain", StateDir: dir}); err == nil || !strings.Contains(err.Error(), "other.domain") {
		t.Errorf("opened for another trust domain: %v", err)
	}
}

func TestTwoProcessesMakeOneCA(t *testing.T) {
	dir := t.TempDir()
	bundles := make(chan []byte, 8)
	for range cap(bundles) {
		go func() {
			ca, err := OpenCA(Config{TrustDomain: td, StateDir: dir})
			if err != nil {
				t.Error(err)
				bundles <- nil
				return
			}
			bundles <- ca.Bundle().PEM
		}()
	}
	first := <-bundles
	for range cap(bundles) - 1 {
		if other := <-bundles; !bytes.Equal(first, other) {
			t.Error("two CAs in one directory")
		}
	}
}

func TestDamagedCAIsNotReplaced(t *testing.T) {
	other, err := os.ReadFile(rootFile(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(path string, data []byte) error{
		"empty":   func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"half":    func(path string, data []byte) error { return os.WriteFile(path, data[:len(data)/2], 0o600) },
		"garbage": func(path string, _ []byte) error { return os.WriteFile(path, []byte("garbage"), 0o600) },
		"too long": func(path string, data []byte) error {
			return os.WriteFile(path, append(data, make([]byte, 1<<20)...), 0o600)
		},
		"trailing":    func(path string, data []byte) error { return os.WriteFile(path, append(data, 'x'), 0o600) },
		"foreign key": func(path string, data []byte) error { return os.WriteFile(path, mix(data, other), 0o600) },
		"readable":    func(path string, _ []byte) error { return os.Chmod(path, 0o644) },
		"open folder": func(path string, _ []byte) error { return os.Chmod(filepath.Dir(path), 0o755) },
		"odd name": func(path string, _ []byte) error {
			return os.Rename(path, filepath.Join(filepath.Dir(path), "root-01.pem"))
		},
		"a folder": func(path string, _ []byte) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		dir := t.TempDir()
		path := rootFile(t, dir)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(path, data); err != nil {
			t.Fatal(err)
		}
		before := listing(t, dir)
		_, err = OpenCA(Config{TrustDomain: td, StateDir: dir})
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "ca")) {
			t.Errorf("%s: error %v, want one that names the file", name, err)
		}
		if after := listing(t, dir); before != after {
			t.Errorf("%s: %s became %s", name, before, after)
		}
	}
}

func rootFile(t *testing.T, dir string) string {
	openCA(t, dir)
	return filepath.Join(dir, "ca", "root-1.pem")
}

// mix gives the certificate of one root with the key of another.
func mix(cert, key []byte) []byte {
	const border = "-----BEGIN PRIVATE KEY-----"
	c, _, _ := bytes.Cut(cert, []byte(border))
	_, k, _ := bytes.Cut(key, []byte(border))
	return append(append(bytes.Clone(c), border...), k...)
}

func listing(t *testing.T, dir string) string {
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		out.WriteString(path + "\n")
		if err == nil && d.Type().IsRegular() {
			data, _ := os.ReadFile(path)
			out.Write(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A full disk, for real: a file system of one page.
func TestFullDisk(t *testing.T) {
	testenv.Root(t)
	dir := t.TempDir()
	if err := mountTmpfs(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(Config{TrustDomain: td, StateDir: dir}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a CA on a full disk: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "fill")); err != nil {
		t.Fatal(err)
	}
	if err := verify(issue(t, openCA(t, dir), model.NewIdentity(td, "a", "b")), openCA(t, dir).Bundle()); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}

func TestUnusableStateDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file, "/proc/self"} {
		if _, err := OpenCA(Config{TrustDomain: td, StateDir: dir}); err == nil {
			t.Errorf("a CA in %q", dir)
		}
	}
	for _, c := range []Config{{TrustDomain: "Capital"}, {TrustDomain: "spiffe://a"}, {TrustDomain: ""}, {TrustDomain: td, TTL: time.Second}, {TrustDomain: td, TTL: 10 * rootTTL}} {
		c.StateDir = t.TempDir()
		if _, err := OpenCA(c); err == nil {
			t.Errorf("a CA with %+v", c)
		}
	}
}

// A root is published a day before it signs, and both are trusted until the first ends.
func TestRootRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ca := openCA(t, dir)
		id := model.NewIdentity(td, "a", "b")
		count := func() int { return bytes.Count(ca.Bundle().PEM, []byte("BEGIN CERTIFICATE")) }
		old := ca.Bundle()
		issue(t, ca, id)
		if count() != 1 {
			t.Fatalf("%d roots at the start", count())
		}
		time.Sleep(rootTTL*2/3 + time.Hour)
		svid := issue(t, ca, id)
		if count() != 2 {
			t.Fatalf("%d roots after two thirds of the first one's life", count())
		}
		if err := verify(svid, old); err != nil {
			t.Errorf("the new root signs before everybody knows it: %v", err)
		}
		both := ca.Bundle()
		time.Sleep(publishLead + time.Minute)
		svid = issue(t, ca, id)
		if err := verify(svid, old); err == nil {
			t.Error("the old root still signs")
		}
		if err := verify(svid, both); err != nil {
			t.Errorf("the bundle of the day before does not verify: %v", err)
		}
		if !bytes.Equal(openCA(t, dir).Bundle().PEM, both.PEM) {
			t.Error("the second root is lost over a reopen")
		}
		time.Sleep(rootTTL / 3)
		if count() != 1 {
			t.Errorf("%d roots after the first has ended", count())
		}
		if svid = issue(t, ca, id); verify(svid, ca.Bundle()) != nil {
			t.Error(verify(svid, ca.Bundle()))
		}
	})
}

func TestEndedCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ca := openCA(t, dir)
		time.Sleep(rootTTL - time.Minute)
		if svid := issue(t, ca, model.NewIdentity(td, "a", "b")); svid.NotAfter.After(ca.roots[0].Cert.NotAfter) {
			t.Error("an SVID outlives its root")
		}
		time.Sleep(2 * rootTTL)
		if _, err := OpenCA(Config{TrustDomain: td, StateDir: dir}); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("a CA whose roots have ended: %v", err)
		}
	})
}
