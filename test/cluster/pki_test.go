package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestAuthoritySigns(t *testing.T) {
	dir := t.TempDir()
	if _, err := newAuthority(dir); err != nil {
		t.Fatal(err)
	}
	a, err := openAuthority(dir) // what it wrote suffices to sign more
	if err != nil {
		t.Fatal(err)
	}
	if err := a.issue("node", subject{name: "system:node:n1", groups: []string{"system:nodes"}, hosts: []string{"10.1.2.3", "n1"}}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for _, host := range []string{"10.1.2.3", "n1"} {
		_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			t.Errorf("as a server %s: %v", host, err)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "n2", Roots: roots}); err == nil {
		t.Error("the certificate is good for another name")
	}
	if got := pair.Leaf.Subject; got.CommonName != "system:node:n1" || len(got.Organization) != 1 || got.Organization[0] != "system:nodes" {
		t.Errorf("subject %v", got)
	}
}

func TestKubeconfig(t *testing.T) {
	a, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := a.file("kc")
	if err := a.kubeconfig(path, "https://192.0.2.1:6443", subject{name: "admin", groups: []string{"g"}}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, mode %v: it holds a key", path, err, info.Mode())
	}
	var kc struct {
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			}
		}
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
	}
	b, _ := os.ReadFile(path)
	if err := json.Unmarshal(b, &kc); err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(kc.Users[0].User.Cert, kc.Users[0].User.Key); err != nil {
		t.Errorf("client certificate: %v", err)
	}
	if c := kc.Clusters[0].Cluster; c.Server != "https://192.0.2.1:6443" || string(c.CA) != string(a.pem) {
		t.Errorf("cluster %s with CA %s", c.Server, c.CA)
	}
}

func TestOpenAuthorityRejectsRubbish(t *testing.T) {
	dir := t.TempDir()
	if _, err := openAuthority(dir); !os.IsNotExist(err) {
		t.Errorf("empty folder: %v", err)
	}
	for _, name := range []string{"ca.crt", "ca.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("no PEM"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openAuthority(dir); err == nil {
		t.Error("rubbish is an authority")
	}
}
