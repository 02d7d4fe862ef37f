//go:build cluster

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/examples"
	"github.com/weft-mesh/weft/internal/load"
)

// TestExamples applies each example and does what its README says.
func TestExamples(t *testing.T) {
	for _, example := range []struct {
		name       string
		namespaces []string
		try        func(*testing.T)
	}{
		{"canary", []string{"canary"}, canaryExample},
		{"l4", []string{"l4"}, l4Example},
		{"mtls", []string{"bank", "street"}, mtlsExample},
		{"gateway", []string{"gateway"}, gatewayExample},
	} {
		t.Run(example.name, func(t *testing.T) {
			for _, ns := range example.namespaces {
				namespace(t, ns, "")
			}
			if example.name == "gateway" {
				shopCertificate(t)
				t.Cleanup(func() { remove(t, "weft.io/v1alpha1", "AddressPool", "", "edge") })
			}
			applyExample(t, example.name)
			for _, ns := range example.namespaces {
				kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod", "--all", "--timeout="+settle.String())
			}
			example.try(t)
		})
	}
}

// applyExample applies an example's folder, with the image that the nodes have and addresses that are on their link.
func applyExample(t *testing.T, name string) {
	t.Helper()
	image := kubectl(t, "-n", system, "get", "daemonset/weft-agent", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	files, err := fs.Glob(examples.FS, name+"/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := examples.FS.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text := exampleImage.ReplaceAllString(string(b), "${1}"+image+"\n${2}imagePullPolicy: IfNotPresent")
		apply(t, strings.ReplaceAll(text, "198.51.100.10-198.51.100.19", "10.89.1.230-10.89.1.239"))
	}
}

var exampleImage = regexp.MustCompile(`(?m)^(( +)image: )ghcr.io/weft-mesh/weft\S*$`)

// demo runs the examples' client in a pod, and gives what it prints: it fails where a request does.
func demo(t *testing.T, ns, pod string, args ...string) (string, error) {
	ctx, cancel := bounded(t)
	defer cancel()
	out, err := mesh.Kubectl(ctx, nil, append([]string{"-n", ns, "exec", pod, "--", "weft", "demo-client"}, args...)...)
	return string(out), err
}

// answered runs the client until no request fails, and gives how many came from each server.
func answered(t *testing.T, ns, pod string, args ...string) map[string]int {
	t.Helper()
	from := map[string]int{}
	eventually(t, settle, func() error {
		out, err := demo(t, ns, pod, args...)
		clear(from)
		for _, m := range servedBy.FindAllStringSubmatch(out, -1) {
			from[m[1]], _ = strconv.Atoi(m[2])
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return from
}

var servedBy = regexp.MustCompile(`(?m)^ *from (\S+) +(\d+) `)

func canaryExample(t *testing.T) {
	accepted(t, "canary", "web")
	eventually(t, settle, func() error {
		from := answered(t, "canary", "client", "--requests", "1000", "http://web")
		measured(t, "answers of 1,000", fmt.Sprint(from))
		if !load.Within(from["v2"], 1000, 0.1, 4) {
			return fmt.Errorf("v2 answered %d of 1,000, which is not 10 of 100", from["v2"])
		}
		return nil
	})
	canaryEdges(t)
	kubectl(t, "-n", "canary", "patch", "httproute", "web", "--type=json", "-p",
		`[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 50},
		  {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 50}]`)
	eventually(t, settle, func() error {
		from := answered(t, "canary", "client", "--requests", "1000", "http://web")
		if !load.Within(from["v2"], 1000, 0.5, 4) {
			return fmt.Errorf("after the change v2 answered %d of 1,000, which is not 50 of 100", from["v2"])
		}
		return nil
	})
}

// canaryEdges: under load, weft edges shows the client's requests to each version.
func canaryEdges(t *testing.T) {
	t.Helper()
	node := kubectl(t, "-n", "canary", "get", "pod", "client", "-o", "jsonpath={.spec.nodeName}")
	ended := make(chan error, 1)
	go func() {
		_, err := demo(t, "canary", "client", "--duration", "20s", "--rate", "100", "http://web")
		ended <- err
	}()
	eventually(t, settle, func() error {
		out := weft(t, node, "edges")
		for _, version := range []string{"web-v1", "web-v2"} {
			if !regexp.MustCompile(`(?m)^canary/client +canary/` + version + ` +none +[0-9.]+ `).MatchString(out) {
				return fmt.Errorf("no requests to %s in\n%s", version, out)
			}
		}
		return nil
	})
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func l4Example(t *testing.T) {
	from := answered(t, "l4", "client", "--requests", "1000", "--new-connections", "http://db")
	measured(t, "answers of 1,000", fmt.Sprint(from))
	if !load.Within(from["db-1"], 1000, 0.5, 4) {
		t.Errorf("answers came from %v, which is not half from each", from)
	}
	if out := weft(t, "n1", "config", "services"); !regexp.MustCompile(`(?m)^l4 +db .* http:80/TCP +<none>$`).MatchString(out) {
		t.Errorf("Service db is not L4 in\n%s", out)
	}
}

func mtlsExample(t *testing.T) {
	if from := answered(t, "bank", "teller", "http://vault"); from["vault"] != 1 {
		t.Errorf("the teller is answered by %v", from)
	}
	for _, who := range [][]string{{"bank", "janitor", "http://vault"}, {"street", "passerby", "http://vault.bank"}} {
		eventually(t, settle, func() error {
			if out, err := demo(t, who[0], who[1], who[2]); err == nil {
				return fmt.Errorf("%s is answered: %s", who[1], out)
			}
			return nil
		})
	}
	remove(t, "weft.io/v1alpha1", "AuthorizationPolicy", "bank", "vault")
	answered(t, "bank", "janitor", "http://vault")
	kubectl(t, "label", "--overwrite", "namespace", "bank", "weft.io/mtls=permissive")
	answered(t, "street", "passerby", "http://vault.bank")
}

func gatewayExample(t *testing.T) {
	accepted(t, "gateway", "shop")
	address := gatewayAddress(t, "gateway", "edge")
	for _, scheme := range []string{"http", "https"} {
		eventually(t, settle, func() error {
			r := once(t, load.Config{URL: scheme + "://" + address + "/", Host: "shop.example",
				TLS: &tls.Config{InsecureSkipVerify: true, ServerName: "shop.example"}})
			if r.Backends["shop"] != 1 {
				return fmt.Errorf("%s: answers %v, failures %v", scheme, r.Backends, r.Failures())
			}
			return nil
		})
	}
	statuses(t, address, "other.example", 404)
}

// shopCertificate makes the Secret that the example's README makes by openssl.
func shopCertificate(t *testing.T) {
	t.Helper()
	cert, key := selfSigned(t, "shop.example")
	apply(t, tlsSecret("gateway", "shop-certificate", cert, key))
}

// selfSigned gives a certificate for a host and its key, as PEM.
func selfSigned(t testing.TB, host string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func tlsSecret(namespace, name string, cert, key []byte) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n",
		name, namespace, base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
}
