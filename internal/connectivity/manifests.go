package connectivity

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

// Namespaces of the test. They have the label, or are not the test's.
const (
	Plain  = "weft-connectivity"
	Strict = "weft-connectivity-mtls"
	Label  = "weft.io/connectivity-test"
)

//go:embed manifests.yaml.tmpl
var manifests string

// pod is a Pod of the test.
type pod struct {
	Namespace, Name, Node string
	App                   string // a label; Services select by it
	Account               string // its ServiceAccount
	Server                bool   // it answers; else it waits to be used
	Probed                bool   // the kubelet asks it whether it is ready
	Host                  bool   // it uses the node's network
}

// service is a Service of the test; Selector is one label.
type service struct{ Namespace, Name, Selector string }

// inventory is what is made in the cluster.
type inventory struct {
	Plain, Strict string
	Image         string
	Gateway       string // its class; "" for none
	Pods          []pod
	Services      []service
	Routed        []string // namespaces with a Service "routed" that has rules
}

// newInventory places pods on two nodes, which may be one.
func newInventory(image, gatewayClass string, nodes [2]string) *inventory {
	v := &inventory{Plain: Plain, Strict: Strict, Image: image, Gateway: gatewayClass, Routed: []string{Plain, Strict}}
	client := func(ns, name, node string) pod {
		return pod{Namespace: ns, Name: name, Node: node, App: "client", Account: name}
	}
	server := func(ns, name, app, node string) pod {
		return pod{Namespace: ns, Name: name, Node: node, App: app, Account: name, Server: true}
	}
	for _, ns := range v.Routed {
		probed := server(ns, "server-1", "echo", nodes[0])
		probed.Probed = true
		v.Pods = append(v.Pods, client(ns, "client", nodes[0]), probed, server(ns, "server-2", "echo", nodes[1]))
		v.Services = append(v.Services,
			service{ns, "echo", "app: echo"}, service{ns, "first", "pod: server-1"}, service{ns, "second", "pod: server-2"}, service{ns, "routed", "app: echo"})
	}
	host := client(Plain, "node", nodes[0])
	host.Host = true
	v.Pods = append(v.Pods, host, client(Strict, "stranger", nodes[0]),
		server(Strict, "guarded", "guarded", nodes[1]), server(Strict, "reading", "reading", nodes[1]))
	v.Services = append(v.Services, service{Strict, "guarded", "app: guarded"}, service{Strict, "reading", "app: reading"})
	return v
}

// object is an object to make, and its path at the API server.
type object struct {
	Path string
	JSON []byte
}

// collections are the paths of the kinds that are made, below their namespace.
var collections = map[string]string{
	"ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts/", "Pod": "/api/v1/namespaces/%s/pods/", "Service": "/api/v1/namespaces/%s/services/",
	"HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/%s/httproutes/", "Gateway": "/apis/gateway.networking.k8s.io/v1/namespaces/%s/gateways/",
	"AuthorizationPolicy": "/apis/weft.io/v1alpha1/namespaces/%s/authorizationpolicies/",
}

// objects returns what is made, in order.
func (v *inventory) objects() ([]object, error) {
	t, err := template.New("manifests").Parse(manifests)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, v); err != nil {
		return nil, err
	}
	var out []object
	for doc := range strings.SplitSeq(text.String(), "\n---\n") {
		o, err := parse(doc)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func parse(doc string) (o object, err error) {
	var head struct {
		Kind     string
		Metadata struct{ Namespace, Name string }
	}
	if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
		return o, fmt.Errorf("%w in\n%s", err, doc)
	}
	if head.Kind == "Namespace" {
		o.Path = NamespacePath(head.Metadata.Name)
	} else {
		collection, ok := collections[head.Kind]
		if !ok {
			return o, fmt.Errorf("no path is known for kind %q", head.Kind)
		}
		o.Path = fmt.Sprintf(collection, head.Metadata.Namespace) + head.Metadata.Name
	}
	o.JSON, err = yaml.YAMLToJSONStrict([]byte(doc))
	return o, err
}

// NamespacePath is the path of a Namespace at the API server.
func NamespacePath(name string) string { return "/api/v1/namespaces/" + name }
