package gateway

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// The API's fields are of three classes. A field that comes with a later version of the API belongs to none and fails
// TestEveryFieldIsClassified until somebody has decided.
const (
	// handled fields do what the API says.
	handled = "handled"
	// harmless fields are not supported, and without them nobody is let in, and nothing is left in the clear or unchecked,
	// that would not be with them.
	harmless = "harmless"
	// refused fields are not supported, and what has one serves nobody and says so: TestRefusedFields has a case for each.
	refused = "refused"
)

// fieldClasses is by type and field. What is below a field that is not handled is not listed.
var fieldClasses = map[string]map[string][]string{
	handled: {
		"GatewaySpec":                {"gatewayClassName", "listeners", "addresses", "infrastructure", "allowedListeners", "tls"},
		"AllowedListeners":           {"namespaces"},
		"ListenerNamespaces":         {"from", "selector"},
		"ListenerSetSpec":            {"parentRef", "listeners"},
		"ParentGatewayReference":     {"group", "kind", "namespace", "name"},
		"ListenerEntry":              {"name", "hostname", "port", "protocol", "tls", "allowedRoutes"},
		"Listener":                   {"name", "hostname", "port", "protocol", "tls", "allowedRoutes"},
		"ListenerTLSConfig":          {"mode", "certificateRefs"},
		"SecretObjectReference":      {"group", "kind", "name", "namespace"},
		"AllowedRoutes":              {"namespaces", "kinds"},
		"RouteNamespaces":            {"from", "selector"},
		"RouteGroupKind":             {"group", "kind"},
		"GatewaySpecAddress":         {"type", "value"},
		"GatewayInfrastructure":      {"labels", "annotations"},
		"GatewayTLSConfig":           {"backend", "frontend"},
		"GatewayBackendTLS":          {"clientCertificateRef"},
		"FrontendTLSConfig":          {"default", "perPort"},
		"TLSConfig":                  {"validation"},
		"FrontendTLSValidation":      {"caCertificateRefs", "mode"},
		"ObjectReference":            {"group", "kind", "name", "namespace"},
		"TLSPortConfig":              {"port", "tls"},
		"GatewayClassSpec":           {"controllerName", "description"},
		"CommonRouteSpec":            {"parentRefs"},
		"ParentReference":            {"group", "kind", "namespace", "name", "sectionName", "port"},
		"HTTPRouteSpec":              {"hostnames", "rules"},
		"HTTPRouteRule":              {"name", "matches", "filters", "backendRefs", "timeouts", "retry"},
		"HTTPRouteMatch":             {"path", "headers", "queryParams", "method"},
		"HTTPPathMatch":              {"type", "value"},
		"HTTPHeaderMatch":            {"type", "name", "value"},
		"HTTPQueryParamMatch":        {"type", "name", "value"},
		"HTTPRouteFilter":            {"type", "requestHeaderModifier", "responseHeaderModifier", "requestMirror", "requestRedirect", "urlRewrite", "cors"},
		"HTTPHeaderFilter":           {"set", "add", "remove"},
		"HTTPHeader":                 {"name", "value"},
		"HTTPRequestMirrorFilter":    {"backendRef", "percent", "fraction"},
		"Fraction":                   {"numerator", "denominator"},
		"HTTPRequestRedirectFilter":  {"scheme", "hostname", "path", "port", "statusCode"},
		"HTTPURLRewriteFilter":       {"hostname", "path"},
		"HTTPPathModifier":           {"type", "replaceFullPath", "replacePrefixMatch"},
		"HTTPCORSFilter":             {"allowOrigins", "allowCredentials", "allowMethods", "allowHeaders", "exposeHeaders", "maxAge"},
		"HTTPBackendRef":             {"filters"},
		"BackendRef":                 {"weight"},
		"BackendObjectReference":     {"group", "kind", "name", "namespace", "port"},
		"HTTPRouteTimeouts":          {"request", "backendRequest"},
		"HTTPRouteRetry":             {"codes", "attempts", "backoff"},
		"GRPCRouteSpec":              {"hostnames", "rules"},
		"GRPCRouteRule":              {"name", "matches", "filters", "backendRefs"},
		"GRPCRouteMatch":             {"method", "headers"},
		"GRPCMethodMatch":            {"type", "service", "method"},
		"GRPCHeaderMatch":            {"type", "name", "value"},
		"GRPCRouteFilter":            {"type", "requestHeaderModifier", "responseHeaderModifier", "requestMirror"},
		"GRPCBackendRef":             {"filters"},
		"TLSRouteSpec":               {"hostnames", "rules"},
		"TLSRouteRule":               {"name", "backendRefs"},
		"TCPRouteSpec":               {"rules"},
		"TCPRouteRule":               {"name", "backendRefs"},
		"UDPRouteSpec":               {"rules"},
		"UDPRouteRule":               {"name", "backendRefs"},
		"ReferenceGrantSpec":         {"from", "to"},
		"ReferenceGrantFrom":         {"group", "kind", "namespace"},
		"ReferenceGrantTo":           {"group", "kind", "name"},
		"BackendTLSPolicySpec":       {"targetRefs", "validation"},
		"BackendTLSPolicyValidation": {"caCertificateRefs", "wellKnownCACertificates", "hostname", "subjectAltNames"},
		"SubjectAltName":             {"type", "hostname", "uri"},
		"LocalObjectReference":       {"group", "kind", "name"},
		"LocalPolicyTargetReferenceWithSectionName": {"sectionName"},
		"LocalPolicyTargetReference":                {"group", "kind", "name"},
		"MeshSpec":                                  {"controllerName", "description"},
		"AuthorizationPolicySpec":                   {"targetRefs", "action", "rules"},
		"PolicyTarget":                              {"group", "kind", "name", "selector"},
		"AuthorizationRule":                         {"sources", "networkAttributes", "http"},
		"AuthorizationSource":                       {"type", "spiffe", "serviceAccount", "namespace"},
		"ServiceAccountSource":                      {"name", "namespace"},
		"NetworkAttributes":                         {"ports"},
		"HTTPAttributes":                            {"methods", "paths"},
		"PathMatch":                                 {"type", "value"},
		"AddressPoolSpec":                           {"addresses", "sharing"},
		"TelemetryPolicySpec":                       {"targetRefs", "tracing"},
		"TracingConfig":                             {"mode", "provider", "samplingRate", "parentBasedSampling", "serviceName", "spanName", "attributes"},
		"TracingProvider":                           {"backendRef", "headers"},
		"ParentBasedSampling":                       {"mode", "samplingRate"},
		"Attribute":                                 {"name", "sourceType", "headerName", "literalValue", "attributeKey"},
	},
	harmless: {
		// A route that names no parent is attached to none.
		"GatewaySpec":     {"defaultScope"},
		"CommonRouteSpec": {"useDefaultGateways"},
		// The mesh's Accepted says so.
		"MeshSpec": {"parametersRef"},
	},
	refused: {
		"Listener":              {"filters"},
		"ListenerEntry":         {"filters"},
		"GatewaySpecAddress":    {"routability"},
		"ListenerTLSConfig":     {"options"},
		"GatewayInfrastructure": {"parametersRef"},
		"GatewayClassSpec":      {"parametersRef"},
		"HTTPRouteFilter":       {"externalAuth", "extensionRef"},
		"HTTPRouteRule":         {"sessionPersistence"},
		"GRPCRouteFilter":       {"extensionRef"},
		"GRPCRouteRule":         {"sessionPersistence"},
		"BackendTLSPolicySpec":  {"options"},
	},
}

func TestEveryFieldIsClassified(t *testing.T) {
	classOf := map[string]string{}
	for class, types := range fieldClasses {
		for kind, fields := range types {
			for _, f := range fields {
				name := kind + "." + f
				if classOf[name] != "" {
					t.Errorf("%s is %s and %s", name, classOf[name], class)
				}
				classOf[name] = class
			}
		}
	}
	seen := map[string]bool{}
	for _, spec := range []any{
		gwv1.GatewaySpec{}, gwv1.ListenerSetSpec{}, gwv1.GatewayClassSpec{}, gwv1.HTTPRouteSpec{}, gwv1.GRPCRouteSpec{}, gwv1.TLSRouteSpec{}, gwv1.TCPRouteSpec{}, gwv1.UDPRouteSpec{}, gwv1.ReferenceGrantSpec{},
		gwv1.BackendTLSPolicySpec{}, gwxv1.MeshSpec{}, gwxv1.TelemetryPolicySpec{}, weftv1.AuthorizationPolicySpec{}, weftv1.AddressPoolSpec{},
	} {
		walk(reflect.TypeOf(spec), seen, func(name string) bool {
			if classOf[name] == "" {
				t.Errorf("%s is not classified: is it handled, harmless without being supported, or refused?", name)
			}
			return classOf[name] == handled
		})
	}
	for name := range classOf {
		if !seen[name] {
			t.Errorf("%s is classified and is not in the API, or only below a field that is not handled", name)
		}
	}
}

// walk calls visit for each field of a type, and of the types of those for which it gives true. Types of other packages
// than the APIs' have no fields of the API's.
func walk(t reflect.Type, seen map[string]bool, visit func(name string) bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || strings.Contains(t.PkgPath(), "k8s.io/apimachinery/") {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		json, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if json == "" { // embedded
			walk(f.Type, seen, visit)
			continue
		}
		name := t.Name() + "." + json
		if seen[name] {
			continue
		}
		seen[name] = true
		if visit(name) {
			walk(f.Type, seen, visit)
		}
	}
}

// open is a Gateway with a route that serves everybody. Cases change it by replacing text.
const open = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: v1
kind: Secret
metadata: {name: cert, namespace: ns}
type: kubernetes.io/tls
stringData: {tls.crt: generated, tls.key: generated}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec: {gatewayClassName: weft, listeners: [{name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: cert}]}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: ns}
spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`

// refusal is a way in which something that is not supported is asked for.
type refusal struct {
	field    string // of fieldClasses; "" for a value that the API does not know yet
	name     string
	old, new string // in open
	says     string // a status, in the line of its problems
}

var refusals = []refusal{
	{"", "certificates of clients without an authority, by default", "{gatewayClassName: weft,", `{gatewayClassName: weft, tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}}}},`, "certificates of the clients"},
	{"", "certificates of clients without an authority, of a port", "{gatewayClassName: weft,", `{gatewayClassName: weft, tls: {frontend: {default: {}, perPort: [{port: 443, tls: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}}}]}},`, "certificates of the clients"},
	{"Listener.filters", "", "port: 443,", "port: 443, filters: {requests: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]},", "filters of a listener"},
	{"ListenerEntry.filters", "", open[strings.Index(open, gatewayOfOpen):], filteredSet, "filters of a listener"},
	{"GatewaySpecAddress.routability", "", "{gatewayClassName: weft,", "{gatewayClassName: weft, addresses: [{value: 192.168.0.1, routability: Cluster}],", "routability"},
	{"ListenerTLSConfig.options", "", "tls: {cert", "tls: {options: {example.com/ciphers: strong}, cert", "example.com/ciphers"},
	{"GatewayInfrastructure.parametersRef", "", "{gatewayClassName: weft,", "{gatewayClassName: weft, infrastructure: {parametersRef: {group: a, kind: B, name: c}},", "infrastructure.parametersRef"},
	{"GatewayClassSpec.parametersRef", "", "gateway-controller}", "gateway-controller, parametersRef: {group: a, kind: B, name: c}}", "parametersRef of GatewayClass weft"},
	{"HTTPRouteFilter.externalAuth", "on a rule", "rules: [{", "rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: auth, port: 80}}}], ", "ExternalAuth"},
	{"HTTPRouteFilter.externalAuth", "on a backend", "web, port: 80}]}", "web, port: 80, filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: auth, port: 80}}}]}]}", "ExternalAuth"},
	{"HTTPRouteFilter.extensionRef", "on a rule", "rules: [{", "rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}], ", "ExtensionRef"},
	{"HTTPRouteFilter.extensionRef", "on a backend", "web, port: 80}]}", "web, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]}]}", "ExtensionRef"},
	// Faults beside it must not let the requests that it guards fall to a rule that matches more.
	{"HTTPRouteFilter.externalAuth", "beside another fault", "rules: [{", "rules: [{matches: [{path: {value: /admin}}], filters: [{type: ExternalAuth}, {type: URLRewrite}], backendRefs: [{name: web, port: 80}]}, {", "ExternalAuth"},
	{"HTTPRouteFilter.externalAuth", "beside a match that cannot be read", "rules: [{", "rules: [{matches: [{path: {value: no-slash}}], filters: [{type: ExternalAuth}]}, {", "no-slash"},
	{"HTTPRouteRule.sessionPersistence", "", "rules: [{", "rules: [{sessionPersistence: {type: Cookie, cookie: {name: a}}, ", "sessionPersistence"},
	{"GRPCRouteFilter.extensionRef", "on a rule", "rules: [{", "rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}], ", "ExtensionRef"},
	{"GRPCRouteFilter.extensionRef", "on a backend", "web, port: 80}]}", "web, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]}]}", "ExtensionRef"},
	{"GRPCRouteRule.sessionPersistence", "", "rules: [{", "rules: [{sessionPersistence: {type: Cookie, cookie: {name: a}}, ", "sessionPersistence"},
	{"BackendTLSPolicySpec.options", "of a Service", "---\napiVersion: v1\nkind: Service", tlsPolicy("") + "---\napiVersion: v1\nkind: Service", "options are not supported"},
	{"BackendTLSPolicySpec.options", "of a port", "---\napiVersion: v1\nkind: Service", tlsPolicy(", sectionName: http") + "---\napiVersion: v1\nkind: Service", "options are not supported"},

	{"", "filter", "rules: [{", "rules: [{filters: [{type: Captcha}], ", `"Captcha"`},
	{"", "filter of a backend", "web, port: 80}]}", "web, port: 80, filters: [{type: Captcha}]}]}", `"Captcha"`},
	{"", "filter of one rule", "rules: [{", "rules: [{matches: [{path: {value: /admin}}], filters: [{type: Captcha}]}, {", `"Captcha"`},
	{"", "path match", "rules: [{", "rules: [{matches: [{path: {type: Glob, value: /a}}]}, {", `"Glob"`},
	{"", "header match", "rules: [{", "rules: [{matches: [{headers: [{type: Glob, name: a, value: b}]}]}, {", `"Glob"`},
	{"", "query match", "rules: [{", "rules: [{matches: [{queryParams: [{type: Glob, name: a, value: b}]}]}, {", `"Glob"`},
	{"", "method", "rules: [{", "rules: [{matches: [{method: QUERY}]}, {", `"QUERY"`},
	{"", "protocol", "protocol: HTTPS", "protocol: QUIC", `"QUIC"`},
	{"", "tls mode", "tls: {cert", "tls: {mode: Sniff, cert", `"Sniff"`},
	{"", "certificate", "[{name: cert}]", "[{kind: Vault, name: cert}]", `"Vault"`},
	{"", "namespaces", "port: 443,", "port: 443, allowedRoutes: {namespaces: {from: Friends}},", "no listener"},
}

// gatewayOfOpen begins the Gateway of open, which the route follows.
const gatewayOfOpen = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n"

// filteredSet is the Gateway and the route of open, with the listener in a ListenerSet.
const filteredSet = `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec: {gatewayClassName: weft, allowedListeners: {namespaces: {from: Same}}, listeners: [{name: idle, protocol: TCP, port: 1}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: set, namespace: ns}
spec:
  parentRef: {name: gw}
  listeners: [{name: http, protocol: HTTP, port: 80, filters: {requests: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: ns}
spec: {parentRefs: [{kind: ListenerSet, name: set}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`

func tlsPolicy(section string) string {
	return `---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls, namespace: ns}
spec: {targetRefs: [{group: "", kind: Service, name: web` + section + `}], options: {a.b/c: d}, validation: {hostname: web.example, wellKnownCACertificates: System}}
`
}

// serves reports whether a request for /admin to a Gateway can reach a backend.
func (w *world) serves() bool {
	s := w.st.Snapshot()
	for gw := range w.st.Gateways.All(s) {
		for _, p := range gw.Ports {
			for _, l := range p.Listeners {
				t, _ := w.st.RouteTables.Get(s, l.RouteTable)
				for _, vh := range t.VirtualHosts {
					if w.servesAdmin(vh.Rules) {
						return true
					}
				}
			}
		}
	}
	return false
}

func (w *world) servesAdmin(rules []model.Rule) bool {
	for _, r := range rules {
		switch r.Match.Path.Value {
		case "", "/", "/admin":
			return r.Status == 0 && slices.ContainsFunc(r.Backends, func(b model.Backend) bool {
				t, ok := w.st.BackendTLS.Get(w.st.Snapshot(), model.PortKey(b.Namespace, b.Name, b.Port, model.TCP))
				return !b.Invalid && (!ok || !t.Invalid)
			})
		}
	}
	return false
}

func TestRefusedFields(t *testing.T) {
	for _, base := range []string{open, strings.ReplaceAll(open, "HTTPRoute", "GRPCRoute")} {
		w := newWorld(testConfig)
		objects, err := parseObjects([]byte(base))
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, objects...)
		w.Sync()
		if !w.serves() {
			t.Fatal("the case that all others change serves nobody")
		}
	}
	proven := map[string]bool{}
	for _, c := range refusals {
		proven[c.field] = true
		t.Run(c.field+" "+c.name, func(t *testing.T) {
			text := open
			if strings.HasPrefix(c.field, "GRPC") {
				text = strings.ReplaceAll(open, "HTTPRoute", "GRPCRoute")
			}
			if strings.Count(text, c.old) != 1 {
				t.Fatalf("%q is not there once to be replaced", c.old)
			}
			objects, err := parseObjects([]byte(strings.Replace(text, c.old, c.new, 1)))
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(testConfig)
			w.put(t, objects...)
			w.Sync()
			if w.serves() {
				t.Error("it is served")
			}
			var problems []string
			for _, s := range w.statuses() {
				problems = append(problems, problem(s))
			}
			if all := strings.Join(problems, "\n"); !strings.Contains(all, c.says) {
				t.Errorf("no status says %q:\n%s", c.says, all)
			}
		})
	}
	for kind, fields := range fieldClasses[refused] {
		for _, f := range fields {
			if !proven[kind+"."+f] {
				t.Errorf("%s.%s is refused by no case", kind, f)
			}
		}
	}
}
