package api

import (
	"encoding/pem"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// lister makes the list of /v1/config/<what>, restricted to a namespace and a name where they are not "".
type lister func(st *state.State, namespace, name string) any

var listers = map[string]lister{
	Services: func(st *state.State, namespace, name string) any {
		return selected(st.Services.All(st.Snapshot()), namespace, name, (*model.Service).Key)
	},
	Routes: func(st *state.State, namespace, name string) any {
		return selected(st.RouteTables.All(st.Snapshot()), namespace, name, routeTableKey)
	},
	AllEndpoints: func(st *state.State, namespace, name string) any {
		return selected(st.Endpoints.All(st.Snapshot()), namespace, name, func(e *model.Endpoints) string { return e.Service })
	},
	Identities: func(st *state.State, namespace, name string) any {
		return selected(slices.Values(identities(st, st.Snapshot())), namespace, name, func(i Identity) string { return identityKey(i.Identity) })
	},
	Certificates: func(st *state.State, namespace, name string) any {
		return selected(slices.Values(certificates(st, st.Snapshot())), namespace, name, certificateKey)
	},
	Policies: func(st *state.State, namespace, name string) any {
		return selected(slices.Values(policies(st, st.Snapshot())), namespace, name, func(p WorkloadPolicy) string { return p.Workload })
	},
	Gateways: func(st *state.State, namespace, name string) any {
		return selected(st.Gateways.All(st.Snapshot()), namespace, name, (*model.Gateway).Key)
	},
	Statuses: func(st *state.State, namespace, name string) any {
		return selected(st.Statuses.All(st.Snapshot()), namespace, name, func(s *model.Status) string {
			return model.Key(s.Object.Namespace, s.Object.Name)
		})
	},
}

// selected keeps what is in the namespace and has the name; key gives namespace/name.
func selected[T any](all iter.Seq[T], namespace, name string, key func(T) string) []T {
	out := []T{}
	for v := range all {
		ns, n := model.SplitKey(key(v))
		if (namespace == "" || ns == namespace) && (name == "" || n == name) {
			out = append(out, v)
		}
	}
	return out
}

func collect[T any](all iter.Seq[T]) []T {
	return selected(all, "", "", func(T) string { return "" })
}

// routeTableKey gives the namespace/name of the Service or Gateway that a route table is for.
func routeTableKey(t *model.RouteTable) string {
	parts := strings.Split(t.Name, "/")
	if len(parts) < 3 {
		return ""
	}
	return model.Key(parts[1], parts[2])
}

func identityKey(i model.Identity) string {
	_, account, _ := strings.Cut(string(i), "/sa/")
	return model.Key(i.Namespace(), account)
}

func certificateKey(c Certificate) string {
	switch c.Kind {
	case "SVID":
		return identityKey(model.Identity(c.Name))
	case "Secret":
		return c.Name
	}
	return model.Key("", c.Name)
}

// identities lists the identities of workloads and Gateways, sorted, with this node's SVIDs.
func identities(st *state.State, snap *state.Snapshot) []Identity {
	all := map[model.Identity]*Identity{}
	get := func(id model.Identity) *Identity {
		i := all[id]
		if i == nil {
			i = &Identity{Identity: id}
			if svid, ok := st.SVIDs.Get(snap, string(id)); ok {
				c := svidCertificate(svid)
				i.SVID = &c
			}
			all[id] = i
		}
		return i
	}
	for w := range st.Workloads.All(snap) {
		if w.Identity != "" {
			i := get(w.Identity)
			i.Workloads = append(i.Workloads, w.Key())
			i.Local = i.Local || w.Local
		}
	}
	for g := range st.Gateways.All(snap) {
		if g.Identity != "" {
			i := get(g.Identity)
			i.Gateways = append(i.Gateways, g.Key())
			i.Local = true
		}
	}
	out := []Identity{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[id])
	}
	return out
}

// certificates lists the trust bundles, the SVIDs and the Gateways' certificates.
func certificates(st *state.State, snap *state.Snapshot) []Certificate {
	var out []Certificate
	for b := range st.Bundles.All(snap) {
		for rest := b.PEM; ; {
			var c Certificate
			c, rest = pemCertificate("Bundle", b.TrustDomain, rest)
			out = append(out, c)
			if next, _ := pem.Decode(rest); next == nil {
				break
			}
		}
	}
	for s := range st.SVIDs.All(snap) {
		out = append(out, svidCertificate(s))
	}
	for c := range st.Certificates.All(snap) {
		leaf, _ := pemCertificate("Secret", c.Key(), c.ChainPEM)
		out = append(out, leaf)
	}
	return out
}

func svidCertificate(s *model.SVID) Certificate {
	return Certificate{
		Kind: "SVID", Name: string(s.Identity), Names: []string{string(s.Identity)},
		Serial: s.Serial, NotBefore: s.NotBefore, NotAfter: s.NotAfter,
	}
}

// pemCertificate reads the first certificate of a chain and gives what follows it.
func pemCertificate(kind, name string, chain []byte) (Certificate, []byte) {
	c := Certificate{Kind: kind, Name: name}
	leaf, rest, err := model.FirstCertificate(chain)
	if err != nil {
		c.Error = err.Error()
		return c, rest
	}
	c.Names = slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	for _, u := range leaf.URIs {
		c.Names = append(c.Names, u.String())
	}
	c.Serial, c.NotBefore, c.NotAfter = leaf.SerialNumber.Text(16), leaf.NotBefore, leaf.NotAfter
	return c, rest
}

// policies lists the workloads that a policy selects.
func policies(st *state.State, snap *state.Snapshot) []WorkloadPolicy {
	var out []WorkloadPolicy
	for w := range st.Workloads.All(snap) {
		if w.Policy != nil {
			out = append(out, WorkloadPolicy{Workload: w.Key(), Local: w.Local, Policies: w.Policy.Names, Rules: w.Policy.Rules})
		}
	}
	return out
}
