package gateway

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// otherProtocols are what a port's name may begin with that does not speak HTTP in the clear.
var otherProtocols = []string{
	"amqp", "amqps", "cassandra", "https", "kafka", "ldap", "ldaps", "memcached", "mongo", "mongodb", "mqtt", "mysql", "nats",
	"postgres", "postgresql", "redis", "smtp", "ssh", "tcp", "tls", "udp",
}

// otherProtocol returns the protocol of a Service port that says that it does not speak HTTP in the clear, and "" for the
// others. appProtocol counts more than the name, whose part before the first hyphen is read. declared reports whether it was
// appProtocol. Prefixed names that are not Kubernetes' own are unknown.
func otherProtocol(p model.ServicePort) (protocol string, declared bool) {
	if app := strings.ToLower(p.AppProtocol); app != "" {
		if kubernetes, ok := strings.CutPrefix(app, "kubernetes.io/"); ok {
			app = kubernetes
		}
		if strings.Contains(app, "/") || speaksHTTP(app) {
			return "", true
		}
		return app, true
	}
	name, _, _ := strings.Cut(strings.ToLower(p.Name), "-")
	if slices.Contains(otherProtocols, name) {
		return name, false
	}
	return "", false
}

// NamedProtocol returns the protocol that a Service port's name says that it speaks, if it is not HTTP in the clear and the port
// has no appProtocol. A route that names the port takes it as HTTP all the same.
func NamedProtocol(p model.ServicePort) string {
	if protocol, declared := otherProtocol(p); !declared {
		return protocol
	}
	return ""
}

// speaksHTTP reports whether an application protocol is HTTP in the clear: http, http2, http-alt, grpc, grpc-web, h2c, ws.
func speaksHTTP(app string) bool {
	switch {
	case strings.HasPrefix(app, "https"):
		return false
	case app == "h2c", app == "ws":
		return true
	}
	return strings.HasPrefix(app, "http") || strings.HasPrefix(app, "grpc")
}

// declaresHTTP reports whether a Service port says that it speaks HTTP in the clear: by its appProtocol, or if it has none by its
// name, whose part before the first hyphen is read.
func declaresHTTP(p model.ServicePort) bool {
	if app := strings.ToLower(p.AppProtocol); app != "" {
		return speaksHTTP(strings.TrimPrefix(app, "kubernetes.io/"))
	}
	name, _, _ := strings.Cut(strings.ToLower(p.Name), "-")
	return speaksHTTP(name)
}

// portSelection is what a parentRef selects of a Service.
type portSelection struct {
	ports []model.ServicePort
	named bool     // the parentRef names the port, and the route is the Service's namespace's, which so says that it speaks HTTP
	other []string // those left out, for they do not speak HTTP: "port 3306 speaks mysql"
}

// detects reports whether only the first bytes of a connection tell whether a selected port speaks HTTP.
func (s *portSelection) detects(p model.ServicePort) bool { return !s.named && !declaresHTTP(p) }

// selectPorts returns the TCP ports that port and sectionName of a parentRef select. A parentRef that names neither, and one
// that names a port whose appProtocol says so, selects no port that does not speak HTTP. A route for the callers of another
// namespace only, caller, does not say what the port speaks: that would hold for all callers.
func selectPorts(svc *corev1.Service, p gwv1.ParentReference, caller string) portSelection {
	var s portSelection
	s.named = caller == "" && (p.Port != nil || orDefault(p.SectionName, "") != "")
	for _, port := range tcpPorts(svc, p) {
		if other, declared := otherProtocol(port); other != "" && (declared || !s.named) {
			s.other = append(s.other, fmt.Sprintf("port %d speaks %s", port.Port, short(other)))
			continue
		}
		s.ports = append(s.ports, port)
	}
	return s
}

// takenPorts are the ports of a Service that a route attaches to.
type takenPorts struct {
	http, detected []string // by number
	left           []string // why others are left out: "port 3306 speaks mysql"
}

func (t *takenPorts) add(p model.ServicePort, detects bool) {
	number := strconv.Itoa(int(p.Port))
	if detects {
		t.detected = append(t.detected, number)
	} else {
		t.http = append(t.http, number)
	}
}

func (t *takenPorts) any() bool { return len(t.http)+len(t.detected) > 0 }

// note says which ports are taken as what, if that is not simply all as HTTP.
func (t *takenPorts) note() string {
	var parts []string
	if len(t.detected) > 0 {
		if len(t.http) > 0 {
			parts = append(parts, "as HTTP: port "+firsts(t.http))
		}
		parts = append(parts, "as HTTP if a connection begins so, else as bytes: port "+firsts(t.detected))
	}
	if len(t.left) > 0 {
		parts = append(parts, "not attached where "+firsts(t.left))
	}
	return strings.Join(parts, "; ")
}

// firsts joins the first of many texts. A Service may have so many ports that a condition's message would not hold them.
func firsts(all []string) string {
	const most = 32
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

// grpcPorts returns the ports of a Service that GRPCRoutes for the same callers take: an HTTPRoute does not attach to them
// (GEP-1426, Route types).
func (v *view) grpcPorts(svc *corev1.Service, caller string) map[uint16]bool {
	taken := map[uint16]bool{}
	for o := range v.objs.GRPCRoutes.By(v.Snapshot, kube.ByParent, kube.ParentKey("Service", svc.Namespace, svc.Name)) {
		r := grpcRouteInput(o)
		if _, refused := v.routeRefusals.Get(v.Snapshot, r.ref.String()); refused || callerOf(&r, svc) != caller {
			continue
		}
		var ports []uint16
		for _, p := range r.parentsOf(svc) {
			for _, port := range selectPorts(svc, p, caller).ports {
				if !taken[port.Port] {
					ports = append(ports, port.Port)
				}
			}
		}
		// Most routes of a Service are on the same port, and need not be compiled again for each HTTPRoute.
		if len(ports) == 0 || r.compile(&resolver{v: v, route: r.ref}).invalid() != nil {
			continue
		}
		for _, port := range ports {
			taken[port] = true
		}
	}
	return taken
}

// callerOf returns the namespace of the callers that a route is for. A route of the Service's own namespace is for all: "".
func callerOf(r *route, svc *corev1.Service) string {
	if r.ref.Namespace != svc.Namespace {
		return r.ref.Namespace
	}
	return ""
}
