package transparency

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/testenv"
)

// perGateway is how many ports a Gateway has: the API allows 64 listeners.
const perGateway = 60

// gateway returns the name and namespace of the Gateway for the i-th conversation, in a family of addresses of pods' namespace
// ns, and its address. The Gateways of a namespace share its connections, and their listeners have equal parts. So those of
// cases with many connections have a namespace of their own.
func gateway(ns, family string, i int) (namespace, name string, a netip.Addr) {
	namespace, k := ns, i/perGateway
	third := byte(slices.Index(namespaces, ns))
	if first := len(cases) - len(many()); i >= first {
		namespace, k, third = ns+"-many", (i-first)/perGateway, third+100
	}
	name = fmt.Sprintf("g%s-%d", family, k)
	if family == "6" {
		return namespace, name, netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 13: third, 15: byte(1 + k)})
	}
	return namespace, name, netip.AddrFrom4([4]byte{10, 99, third, byte(1 + k)})
}

func atGateway(ns, family string) func(int) netip.Addr {
	return func(i int) netip.Addr {
		_, _, a := gateway(ns, family, i)
		return a
	}
}

// manifest has the objects of all paths by weft tunnel and in the clear.
func manifest() string {
	var b strings.Builder
	b.WriteString(`---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: s, namespace: guarded}
spec:
  targetRefs: [{kind: Service, name: s}]
  action: ALLOW
  rules:
    - networkAttributes: {ports: [80]}
      http: [{methods: [GET]}]
    - {}
`)
	for _, ns := range namespaces {
		b.WriteString(podsOf(ns))
		if ns == guarded {
			service(&b, ns, detected, "", fmt.Sprintf("  clusterIP: %s\n  selector: {app: s}\n", serviceIP(ns, detected)))
			continue
		}
		for _, name := range []string{byTCPRoute, byTLSRoute} {
			service(&b, ns, name, "", fmt.Sprintf("  clusterIP: %s\n", serviceIP(ns, name)))
		}
		// Servers listen in the family that their clients use, and a Gateway chooses among both.
		for _, family := range []string{"4", "6"} {
			service(&b, ns, bySelector+family, "", fmt.Sprintf(`  clusterIP: None
  ipFamilyPolicy: SingleStack
  ipFamilies: [IPv%s]
  selector: {app: s}
`, family))
			gatewaysOf(&b, ns, family)
		}
		grant(&b, ns)
		for i := range cases {
			serviceRoutes(&b, ns, firstPort+i)
		}
	}
	return b.String()
}

// podsOf writes a namespace with a client, a server and its Service.
func podsOf(ns string) string {
	var b strings.Builder
	mode := map[string]string{plain: "disabled", strict: "strict", guarded: "permissive"}[ns]
	fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {weft.io/mtls: %s}}\n", ns, mode)
	for _, name := range []string{"c", "s"} {
		b.WriteString(testenv.PodWithAccount(ns, name))
	}
	service(&b, ns, bySelector, ", appProtocol: tcp", fmt.Sprintf(`  clusterIP: %[1]s
  clusterIPs: ["%[1]s", "%[2]s"]
  ipFamilyPolicy: RequireDualStack
  selector: {app: s}
`, serviceIP(ns, bySelector), serviceIP6(ns)))
	return b.String()
}

// service writes a Service with a port for each case.
func service(b *strings.Builder, ns, name, protocol, spec string) {
	fmt.Fprintf(b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec:\n%s  ports:\n", name, ns, spec)
	for i := range cases {
		fmt.Fprintf(b, "    - {name: p%[1]d, port: %[1]d%[2]s}\n", firstPort+i, protocol)
	}
}

// serviceRoutes writes the routes of Services for a port.
func serviceRoutes(b *strings.Builder, ns string, port int) {
	fmt.Fprintf(b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: r%[2]d, namespace: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: r, port: %[2]d}]
  rules: [{backendRefs: [{name: s, port: %[2]d}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: t%[2]d, namespace: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: t, port: %[2]d}]
  hostnames: [%[3]s]
  rules: [{backendRefs: [{name: s4, port: %[2]d}]}]
`, ns, port, serverName)
}

// gatewaysOf writes Gateways with a port and a TCPRoute for each case, for a family of addresses.
func gatewaysOf(b *strings.Builder, ns, family string) {
	begun := ""
	for i := range cases {
		namespace, name, a := gateway(ns, family, i)
		if key := namespace + "/" + name; begun != key {
			begun = key
			fmt.Fprintf(b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: %s}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: "%s"}]
  listeners:
`, name, namespace, a)
		}
		fmt.Fprintf(b, "    - {name: p%[1]d, protocol: TCP, port: %[1]d}\n", firstPort+i)
	}
	for i := range cases {
		namespace, name, _ := gateway(ns, family, i)
		fmt.Fprintf(b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: g%[5]s-%[4]d, namespace: %[2]s}
spec:
  parentRefs: [{name: %[1]s, sectionName: p%[4]d}]
  rules: [{backendRefs: [{namespace: %[3]s, name: s%[5]s, port: %[4]d}]}]
`, name, namespace, ns, firstPort+i, family)
	}
}

// grant lets the routes of cases with many connections lead to a namespace's Services.
func grant(b *strings.Builder, ns string) {
	fmt.Fprintf(b, `---
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s-many}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: many, namespace: %[1]s}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: %[1]s-many}]
  to: [{group: "", kind: Service}]
`, ns)
}

func serviceIP(ns, service string) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 98, 0, byte(10 + 10*slices.Index(namespaces, ns) + slices.Index(services, service))})
}

func serviceIP6(ns string) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x98, 15: byte(10 + slices.Index(namespaces, ns))})
}
