//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// client speaks to the API server as the administrator. It is faster than a kubectl for each object, and its requests
// are what kubectl apply --server-side sends.
type client struct {
	url  string
	http *http.Client
}

// errNotFound is the API server's 404.
var errNotFound = errors.New("not found")

// newClient reads a kubeconfig of test/cluster, which is JSON.
func newClient(path string) (*client, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal(b, &k); err != nil || len(k.Clusters) == 0 || len(k.Users) == 0 {
		return nil, fmt.Errorf("kubeconfig %s: no cluster or user in it: %w", path, err)
	}
	cert, err := tls.X509KeyPair(k.Users[0].User.Cert, k.Users[0].User.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.Clusters[0].Cluster.CA)
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 32, ForceAttemptHTTP2: true,
	}
	return &client{url: k.Clusters[0].Cluster.Server, http: &http.Client{Transport: transport, Timeout: 30 * time.Second}}, nil
}

// object is any object as JSON has it.
type object = map[string]any

// inCluster are the kinds without a namespace.
var inCluster = map[string]bool{"Namespace": true, "Node": true, "GatewayClass": true, "AddressPool": true}

// path is an object's URL without the server's.
func path(apiVersion, kind, namespace, name string) string {
	root := "/apis/"
	if !strings.Contains(apiVersion, "/") {
		root = "/api/"
	}
	plural := strings.ToLower(kind) + "s"
	switch {
	case strings.HasSuffix(kind, "y") && !strings.HasSuffix(kind, "ay"):
		plural = strings.TrimSuffix(strings.ToLower(kind), "y") + "ies"
	case strings.HasSuffix(kind, "ss"):
		plural = strings.ToLower(kind) + "es"
	}
	if inCluster[kind] {
		namespace = ""
	}
	if namespace != "" {
		namespace = "namespaces/" + namespace + "/"
	}
	if name != "" {
		name = "/" + name
	}
	return root + apiVersion + "/" + namespace + plural + name
}

func (c *client) do(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", method, path, errNotFound)
	case res.StatusCode > 299:
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	case into == nil:
		return nil
	}
	return json.Unmarshal(b, into)
}

// applyOne applies one object, server side.
func (c *client) applyOne(ctx context.Context, o object) error {
	meta, _ := o["metadata"].(object)
	text := func(m object, key string) string { s, _ := m[key].(string); return s }
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	p := path(text(o, "apiVersion"), text(o, "kind"), text(meta, "namespace"), text(meta, "name"))
	return c.do(ctx, http.MethodPatch, p+"?fieldManager=e2e&force=true", "application/apply-patch+yaml", body, nil)
}

// parse reads the documents of a manifest.
func parse(manifest string) ([]object, error) {
	var out []object
	for _, doc := range strings.Split("\n"+manifest, "\n---") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	return out, nil
}

// bounded is the context of one command. It is not the test's: that has ended already where a test cleans up.
func bounded(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), 2*settle)
}

// apply applies a manifest of any number of documents.
func apply(t testing.TB, manifest string) {
	t.Helper()
	objects, err := parse(manifest)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := bounded(t)
	defer cancel()
	for _, o := range objects {
		if err := mesh.api.applyOne(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
}

// get reads an object; errNotFound if it is not there.
func (c *client) get(ctx context.Context, apiVersion, kind, namespace, name string, into any) error {
	return c.do(ctx, http.MethodGet, path(apiVersion, kind, namespace, name), "", nil, into)
}

// read reads an object of a test.
func read(t testing.TB, apiVersion, kind, namespace, name string, into any) error {
	ctx, cancel := bounded(t)
	defer cancel()
	return mesh.api.get(ctx, apiVersion, kind, namespace, name, into)
}

// list reads the objects of a kind; query is that of the URL.
func list[T any](t testing.TB, apiVersion, kind, namespace, query string) []T {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	var out struct{ Items []T }
	if err := mesh.api.do(ctx, http.MethodGet, path(apiVersion, kind, namespace, "")+"?"+query, "", nil, &out); err != nil {
		t.Fatal(err)
	}
	return out.Items
}

// remove deletes an object, in the background; one that is not there is no error.
func (c *client) remove(ctx context.Context, apiVersion, kind, namespace, name string) error {
	err := c.do(ctx, http.MethodDelete, path(apiVersion, kind, namespace, name), "", nil, nil)
	if errors.Is(err, errNotFound) {
		return nil
	}
	return err
}

func remove(t testing.TB, apiVersion, kind, namespace, name string) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	if err := mesh.api.remove(ctx, apiVersion, kind, namespace, name); err != nil {
		t.Error(err)
	}
}

// namespace makes a namespace with labels, as "key: value, key: value", that goes with the test.
func namespace(t testing.TB, name, labels string) {
	t.Helper()
	remove(t, "v1", "Namespace", "", name) // of a run that was ended
	gone(t, "v1", "Namespace", "", name)
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {%s}}\n", name, labels))
	t.Cleanup(func() { remove(t, "v1", "Namespace", "", name) })
}

// gone waits until an object of an earlier test is not there any more.
func gone(t testing.TB, apiVersion, kind, namespace, name string) {
	t.Helper()
	eventually(t, settle, func() error {
		err := read(t, apiVersion, kind, namespace, name, nil)
		if errors.Is(err, errNotFound) {
			return nil
		}
		return errors.Join(fmt.Errorf("%s %s/%s is still there", kind, namespace, name), err)
	})
}

// kubectl runs kubectl as the administrator and gives what it printed.
func kubectl(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	out, err := mesh.Kubectl(ctx, nil, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// eventually tries until there is no error, and fails the test with the last one. It returns how long it took.
func eventually(t testing.TB, within time.Duration, try func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := try()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("after %s: %v", time.Since(began).Round(time.Millisecond), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// condition is one of a status.
type condition struct {
	Type, Status, Reason, Message string
}

// find gives the condition of a type; a zero one if there is none.
func find(conditions []condition, kind string) condition {
	for _, c := range conditions {
		if c.Type == kind {
			return c
		}
	}
	return condition{}
}

const gatewayAPI = "gateway.networking.k8s.io/v1"

// routeStatus is what tests read of a route.
type routeStatus struct {
	Status struct {
		Parents []struct {
			Conditions []condition
		}
	}
}

// gatewayStatus is what tests read of a Gateway.
type gatewayStatus struct {
	Status struct {
		Addresses []struct{ Value string }
		// Conditions are the Gateway's own.
		Conditions []condition
		Listeners  []struct {
			Name       string
			Conditions []condition
		}
	}
}

// gatewayAddress waits for a Gateway's address and gives it.
func gatewayAddress(t testing.TB, namespace, name string) string {
	t.Helper()
	var address string
	eventually(t, settle, func() error {
		var gw gatewayStatus
		if err := read(t, gatewayAPI, "Gateway", namespace, name, &gw); err != nil {
			return err
		}
		if c := find(gw.Status.Conditions, "Programmed"); c.Status != "True" || len(gw.Status.Addresses) == 0 {
			return fmt.Errorf("Gateway %s/%s: Programmed is %+v, addresses %v", namespace, name, c, gw.Status.Addresses)
		}
		address = gw.Status.Addresses[0].Value
		return nil
	})
	return address
}

// accepted waits until a route's first parent has accepted it.
func accepted(t testing.TB, namespace, name string) {
	t.Helper()
	eventually(t, settle, func() error {
		var r routeStatus
		if err := read(t, gatewayAPI, "HTTPRoute", namespace, name, &r); err != nil {
			return err
		}
		if len(r.Status.Parents) == 0 {
			return fmt.Errorf("HTTPRoute %s/%s has no status", namespace, name)
		}
		if c := find(r.Status.Parents[0].Conditions, "Accepted"); c.Status != "True" {
			return fmt.Errorf("HTTPRoute %s/%s: Accepted is %+v", namespace, name, c)
		}
		return nil
	})
}
