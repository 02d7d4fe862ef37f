package xds

import (
	"fmt"
	"strconv"

	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// A policy is compiled three times, for the three places where it is decided: at a CONNECT (the port is in the
// authority, the peer in the certificate), at a request that came in one (the port is the connection's, the peer in
// filter state) and at a request in the clear (nobody has an identity).

// terminates reports whether a workload's policy looks at requests, so that CONNECTs must be opened.
func terminates(w *model.Workload) bool { return w.Local && w.Identity != "" && w.Policy.HTTP() }

// plainPorts returns the ports that anybody may connect to, sorted; all is true if that is every port.
func plainPorts(p *model.Policy) (ports []uint16, all bool) {
	return p.PortsOf(func(r *model.PolicyRule) bool { return r.Sources == nil && len(r.HTTP) == 0 })
}

func policyRefs(w *model.Workload) []model.ObjectVersion {
	if w.Policy == nil {
		return nil
	}
	var refs []model.ObjectVersion
	for i, key := range w.Policy.Names {
		ns, name := model.SplitKey(key)
		v := model.ObjectVersion{ObjectRef: model.ObjectRef{Group: "weft.io", Kind: "AuthorizationPolicy", Namespace: ns, Name: name}}
		if i < len(w.Policy.Generations) {
			v.Generation = w.Policy.Generations[i]
		}
		refs = append(refs, v)
	}
	return refs
}

// place compiles what differs between the places.
type place struct {
	trustDomain string
	port        func(uint16) *rbac.Permission
	peer        func(*matcher.StringMatcher) *rbac.Principal // nil: nobody has an identity here
	http        bool                                         // requests can be looked at
}

func atConnect(trustDomain string) place {
	return place{trustDomain: trustDomain, port: authorityPort, peer: certificatePeer}
}

func atPlain(trustDomain string) place {
	return place{trustDomain: trustDomain, port: destinationPort, http: true}
}

func atRequest(trustDomain string) place {
	return place{trustDomain: trustDomain, port: destinationPort, peer: statedPeer, http: true}
}

// allow compiles a policy. What no rule allows is refused, so a policy without rules refuses everything.
func (p place) allow(policy *model.Policy) *rbac.RBAC {
	out := &rbac.RBAC{Action: rbac.RBAC_ALLOW, Policies: map[string]*rbac.Policy{}}
	for i, r := range policy.Rules {
		principals := p.principals(r.Sources)
		if len(principals) == 0 {
			continue
		}
		out.Policies[fmt.Sprintf("%03d", i)] = &rbac.Policy{
			Permissions: []*rbac.Permission{p.permission(r)},
			Principals:  principals,
		}
	}
	return out
}

// principals returns nothing if no source can match here.
func (p place) principals(sources []model.PolicySource) []*rbac.Principal {
	if sources == nil {
		return []*rbac.Principal{{Identifier: &rbac.Principal_Any{Any: true}}}
	}
	if p.peer == nil {
		return nil
	}
	var out []*rbac.Principal
	for _, s := range sources {
		switch {
		case s.Identity != "":
			out = append(out, p.peer(exactly(string(s.Identity))))
		case s.Namespace != "":
			out = append(out, p.peer(startsWith(spiffePrefix+p.trustDomain+"/ns/"+s.Namespace+"/")))
		}
	}
	return out
}

func (p place) permission(r model.PolicyRule) *rbac.Permission {
	var all []*rbac.Permission
	if len(r.Ports) > 0 {
		var ports []*rbac.Permission
		for _, n := range r.Ports {
			ports = append(ports, p.port(n))
		}
		all = append(all, anyOf(ports))
	}
	if p.http && len(r.HTTP) > 0 {
		var rules []*rbac.Permission
		for _, h := range r.HTTP {
			rules = append(rules, request(h))
		}
		all = append(all, anyOf(rules))
	}
	return allOf(all)
}

func request(h model.HTTPRule) *rbac.Permission {
	var all []*rbac.Permission
	if len(h.Methods) > 0 {
		var methods []*rbac.Permission
		for _, m := range h.Methods {
			methods = append(methods, header(":method", exactly(m)))
		}
		all = append(all, anyOf(methods))
	}
	if len(h.Paths) > 0 {
		var paths []*rbac.Permission
		for _, m := range h.Paths {
			paths = append(paths, pathPermissions(m)...)
		}
		all = append(all, anyOf(paths))
	}
	return allOf(all)
}

// pathPermissions compares the path without its query.
func pathPermissions(m model.PathMatch) []*rbac.Permission {
	path := func(s *matcher.StringMatcher) *rbac.Permission {
		return &rbac.Permission{Rule: &rbac.Permission_UrlPath{UrlPath: &matcher.PathMatcher{
			Rule: &matcher.PathMatcher_Path{Path: s},
		}}}
	}
	switch m.Type {
	case model.MatchExact:
		return []*rbac.Permission{path(exactly(m.Value))}
	case model.MatchRegex:
		if !validRegex(m.Value) {
			return []*rbac.Permission{never()}
		}
		return []*rbac.Permission{path(matching(m.Value))}
	}
	prefix := trimSlashes(m.Value)
	if prefix == "" {
		return []*rbac.Permission{anything()}
	}
	return []*rbac.Permission{path(exactly(prefix)), path(startsWith(prefix + "/"))}
}

func authorityPort(n uint16) *rbac.Permission {
	return header(":authority", endsWith(":"+strconv.Itoa(int(n))))
}

func destinationPort(n uint16) *rbac.Permission {
	return &rbac.Permission{Rule: &rbac.Permission_DestinationPort{DestinationPort: uint32(n)}}
}

func header(name string, s *matcher.StringMatcher) *rbac.Permission {
	return &rbac.Permission{Rule: &rbac.Permission_Header{Header: &routev3.HeaderMatcher{
		Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: s},
	}}}
}

func anything() *rbac.Permission { return &rbac.Permission{Rule: &rbac.Permission_Any{Any: true}} }

func never() *rbac.Permission {
	return &rbac.Permission{Rule: &rbac.Permission_NotRule{NotRule: anything()}}
}

func anyOf(p []*rbac.Permission) *rbac.Permission {
	if len(p) == 1 {
		return p[0]
	}
	return &rbac.Permission{Rule: &rbac.Permission_OrRules{OrRules: &rbac.Permission_Set{Rules: p}}}
}

func allOf(p []*rbac.Permission) *rbac.Permission {
	switch len(p) {
	case 0:
		return anything()
	case 1:
		return p[0]
	}
	return &rbac.Permission{Rule: &rbac.Permission_AndRules{AndRules: &rbac.Permission_Set{Rules: p}}}
}

func certificatePeer(s *matcher.StringMatcher) *rbac.Principal {
	return &rbac.Principal{Identifier: &rbac.Principal_Authenticated_{
		Authenticated: &rbac.Principal_Authenticated{PrincipalName: s},
	}}
}

func statedPeer(s *matcher.StringMatcher) *rbac.Principal {
	return &rbac.Principal{Identifier: &rbac.Principal_FilterState{FilterState: &matcher.FilterStateMatcher{
		Key: statePeer, Matcher: &matcher.FilterStateMatcher_StringMatch{StringMatch: s},
	}}}
}
