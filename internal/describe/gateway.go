package describe

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// Gateway is what the mesh makes of a Gateway.
type Gateway struct {
	*model.Gateway
	// Certificate is that of the Gateway's identity on the node that answers; nil if it has none.
	Certificate  *model.Certified `json:"certificate,omitempty"`
	Certificates []Certificate    `json:"certificates,omitempty"`
	// Announced says which nodes answer for addresses of AddressPools.
	Announced []model.Announcement `json:"announced,omitempty"`
	Streams   []Stream             `json:"streams,omitempty"`
}

func (d *description) gateway(key string) bool {
	ns, name := model.SplitKey(key)
	known := d.status(KindGateway, ns, name)
	g, ok := d.State.Gateways.Get(d.Snapshot, key)
	if !ok && !known {
		return false
	}
	if !ok {
		g = &model.Gateway{Namespace: ns, Name: name}
	}
	g = d.gatewayOf(g)
	out := &Gateway{Gateway: g, Streams: d.streams(g, func(model.ObjectRef) bool { return true })}
	d.out.Gateway = out
	if g.Identity != "" {
		out.Certificate, _ = d.State.Certified.Get(d.Snapshot, string(g.Identity))
	}
	for _, secret := range shownBy(g) {
		if d.seesKey(secret) {
			out.Certificates = append(out.Certificates, d.certificate(secret))
		}
	}
	for _, a := range g.Addresses {
		if row, ok := d.State.Announcements.Get(d.Snapshot, a.String()); ok {
			out.Announced = append(out.Announced, *row)
		}
	}
	prefix := "gateway/" + key + "/"
	for t := range d.State.RouteTables.All(d.Snapshot) {
		if strings.HasPrefix(t.Name, prefix) {
			d.table(t, func(*model.Rule) bool { return true })
		}
	}
	d.gatewayProblems(out)
	return true
}

// gatewayOf returns a Gateway without the listeners of ListenerSets, and the routes, that the reader may not see.
func (n *Node) gatewayOf(g *model.Gateway) *model.Gateway {
	if n.Sees == nil {
		return g
	}
	out := *g
	out.Ports = slices.Clone(g.Ports)
	for i := range out.Ports {
		p := &out.Ports[i]
		p.Sets = slices.DeleteFunc(slices.Clone(p.Sets), func(o model.ObjectVersion) bool { return !n.sees(o.Namespace) })
		p.Listeners = slices.DeleteFunc(slices.Clone(p.Listeners), func(l model.GatewayListener) bool {
			set, _, of := strings.Cut(l.Name, "/")
			return of && !n.sees(set)
		})
		for j := range p.Listeners {
			l := &p.Listeners[j]
			l.Streams = slices.DeleteFunc(slices.Clone(l.Streams), func(s model.GatewayStream) bool { return !n.sees(s.Route.Namespace) })
		}
	}
	return &out
}

// shownBy lists the Secrets of a Gateway's listeners.
func shownBy(g *model.Gateway) []string {
	var out []string
	for _, p := range g.Ports {
		for _, l := range p.Listeners {
			out = append(out, l.Certificates...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// certificate reads the first certificate of a Secret's chain. A node that does not serve Gateways has none.
func (d *description) certificate(secret string) Certificate {
	c := Certificate{Name: secret}
	row, ok := d.State.Certificates.Get(d.Snapshot, secret)
	if !ok {
		c.Error = "the node has not got it"
		return c
	}
	leaf, _, err := model.FirstCertificate(row.ChainPEM)
	if err != nil {
		c.Error = err.Error()
		return c
	}
	c.Names, c.NotAfter = leaf.DNSNames, leaf.NotAfter
	return c
}

func (d *description) gatewayProblems(g *Gateway) {
	d.failures()
	if d.out.Status != nil {
		for _, l := range d.out.Status.Listeners {
			if l.AttachedRoutes == 0 {
				d.problem("listener "+l.Name+" has no route", "attach one by its parentRefs, or see the status of those that ask for it (weft describe route)")
			}
		}
	}
	for _, c := range g.Certificates {
		switch {
		case c.Error != "":
			if d.State.ServesGateways(d.Snapshot) {
				d.problem("Secret "+c.Name+": "+c.Error, "put a certificate and its key as PEM into the Secret")
			}
		case !d.Now.Before(c.NotAfter):
			d.problem(fmt.Sprintf("the certificate of Secret %s expired at %s", c.Name, c.NotAfter.UTC().Format("2006-01-02 15:04 MST")), "renew it")
		}
	}
	if g.Identity != "" && d.State.ServesGateways(d.Snapshot) {
		if why := g.Certificate.Problem(d.Now); why != "" {
			d.problem(fmt.Sprintf("identity %s has no valid certificate: %s", g.Identity, why), "see the node's faults (weft status): strict backends cannot be reached")
		}
	}
	d.applied(model.Subject{Kind: model.SubjectGateway, Name: g.Key()})
	d.ruleProblems()
	d.streamProblems(g.Streams)
	d.telemetryProblems(g.Gateway)
	d.rejections(d.out.Object)
}
