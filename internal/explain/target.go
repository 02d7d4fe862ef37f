package explain

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// Kinds of targets.
const (
	KindService = "Service"
	KindPod     = "Pod"
	KindGateway = "Gateway"
)

// Target is what a connection is made to.
type Target struct {
	// Kind is one of the constants; "" is the first of a Service, a pod and a Gateway of this name that exists.
	Kind string `json:"kind,omitempty"`
	Name string `json:"name"` // namespace/name
	// Port is 0 for the only TCP port of a Service or Gateway.
	Port uint16 `json:"port,omitempty"`
}

// ParseTarget reads [KIND/]NAMESPACE/NAME[:PORT]. The kind is service, pod or gateway, in any case.
func ParseTarget(text string) (Target, error) {
	var t Target
	name, port, hasPort := strings.Cut(text, ":")
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return t, fmt.Errorf("%q: %q is not a port", text, port)
		}
		t.Port = uint16(n)
	}
	parts := strings.Split(name, "/")
	if len(parts) == 3 {
		kinds := []string{KindService, KindPod, KindGateway}
		i := slices.IndexFunc(kinds, func(k string) bool { return strings.EqualFold(k, parts[0]) })
		if i < 0 {
			return t, fmt.Errorf("%q: the kind must be service, pod or gateway", text)
		}
		t.Kind, parts = kinds[i], parts[1:]
	}
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return t, fmt.Errorf("%q is not of the form NAMESPACE/NAME:PORT", text)
	}
	t.Name = model.Key(parts[0], parts[1])
	return t, nil
}

// destination is a target with its row.
type destination struct {
	Target
	service *model.Service
	pod     *model.Workload
	gateway *model.Gateway
}

func (d *destination) String() string { return fmt.Sprintf("%s/%s:%d", d.Kind, d.Name, d.Port) }

// resolve finds the row of a target, and its port.
func (n *Node) resolve(t Target) (*destination, error) {
	d := &destination{Target: t}
	wants := func(kind string) bool { return t.Kind == "" || t.Kind == kind }
	if s, ok := n.State.Services.Get(n.Snapshot, t.Name); ok && wants(KindService) {
		d.Kind, d.service = KindService, s
		var ports []uint16
		for _, p := range s.Ports {
			if p.Protocol == model.TCP {
				ports = append(ports, p.Port)
			}
		}
		return d, d.choosePort(ports)
	}
	if w, ok := n.State.Workloads.Get(n.Snapshot, t.Name); ok && wants(KindPod) {
		d.Kind, d.pod = KindPod, w
		return d, d.choosePort(nil)
	}
	if g, ok := n.State.Gateways.Get(n.Snapshot, t.Name); ok && wants(KindGateway) {
		d.Kind, d.gateway = KindGateway, g
		var ports []uint16
		for _, p := range g.Ports {
			if !p.UDP {
				ports = append(ports, p.Port)
			}
		}
		return d, d.choosePort(ports)
	}
	return nil, fmt.Errorf("%s %s is %w", cmp.Or(t.Kind, "Service, Pod or Gateway"), t.Name, ErrUnknown)
}

func (d *destination) choosePort(ports []uint16) error {
	switch {
	case d.Port != 0:
	case len(ports) == 1:
		d.Port = ports[0]
	case len(ports) == 0:
		return fmt.Errorf("%s %s: name a port, as in %s:8080", d.Kind, d.Name, d.Name)
	default:
		return fmt.Errorf("%s %s has the ports %s: name one, as in %s:%d", d.Kind, d.Name, joined(ports), d.Name, ports[0])
	}
	return nil
}

// complete fills in what a client would send.
func (r *Request) complete(to *destination) *Request {
	out := *r
	out.Method, out.Path = cmp.Or(r.Method, http.MethodGet), cmp.Or(r.Path, "/")
	if out.Host == "" {
		ns, name := model.SplitKey(to.Name)
		out.Host = name + "." + ns
	}
	return &out
}

func joined[T any](list []T) string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = fmt.Sprint(v)
	}
	return strings.Join(out, ", ")
}
