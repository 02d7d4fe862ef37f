package connectivity

import "fmt"

// Case is one way that is tried.
type Case struct {
	Group string // what it is about
	Name  string
	From  string // namespace/name of the pod that asks
	URL   string
	Want  Want
}

// Want is what must come of the requests of a case.
type Want struct {
	// Backends must all have answered, and nobody else.
	Backends []string
	// Status answers them, if it is not 0.
	Status int
	// Refused requests are not answered at all.
	Refused bool
	// Authenticated connections are seen by a node with the identities of both ends.
	Authenticated bool
}

func (w Want) String() string {
	switch {
	case w.Refused:
		return "refused"
	case w.Status != 0:
		return fmt.Sprintf("answered %d", w.Status)
	}
	return fmt.Sprintf("answered by %v", w.Backends)
}

// answeredBy wants answers of servers.
func answeredBy(servers ...string) Want { return Want{Backends: servers} }

// target is what the cases need to know of the cluster.
type target struct {
	pods    map[string]string // namespace/name to an address, as in a URL
	gateway string            // the Gateway's address, "" for none
}

// cases lists all that is tried. Each refusal has a case beside it in which the same server answers.
func cases(t *target) []Case {
	url := func(ns, service, path string) string {
		return "http://" + service + "." + ns + ".svc" + path
	}
	at := func(pod string) string { return "http://" + t.pods[pod] + ":8080/" }
	const client, node = Plain + "/client", Plain + "/node"
	out := []Case{
		{"kernel", "pod to pod, same node", client, at(Plain + "/server-1"), answeredBy("server-1")},
		{"kernel", "pod to pod, other node", client, at(Plain + "/server-2"), answeredBy("server-2")},
		{"kernel", "pod to Service", client, "http://" + t.pods["service/"+Plain+"/echo"] + "/", answeredBy("server-1", "server-2")},
		{"kernel", "node to pod", node, at(Plain + "/server-1"), answeredBy("server-1")},
		{"kernel", "node to pod, other node", node, at(Plain + "/server-2"), answeredBy("server-2")},
		{"kernel", "node to Service", node, "http://" + t.pods["service/"+Plain+"/echo"] + "/", answeredBy("server-1", "server-2")},
		{"DNS", "pod to Service by its name", client, url(Plain, "echo", "/"), answeredBy("server-1", "server-2")},
		{"DNS", "by its name alone, in its namespace", client, "http://echo/", answeredBy("server-1", "server-2")},
		{"routes", "the default rule", client, url(Plain, "routed", "/"), answeredBy("server-1")},
		{"routes", "a rule for a path", client, url(Plain, "routed", "/second"), answeredBy("server-2")},
		{"routes", "a split by weight", client, url(Plain, "routed", "/both"), answeredBy("server-1", "server-2")},
	}
	const member, stranger = Strict + "/client", Strict + "/stranger"
	authenticated := func(servers ...string) Want { return Want{Backends: servers, Authenticated: true} }
	refused := Want{Refused: true}
	out = append(out, []Case{
		{"mTLS", "strict to strict, same node", member, at(Strict + "/server-1"), authenticated("server-1")},
		{"mTLS", "strict to strict, other node", member, at(Strict + "/server-2"), authenticated("server-2")},
		{"mTLS", "strict to strict by a Service", member, url(Strict, "echo", "/"), answeredBy("server-1", "server-2")},
		{"mTLS", "strict to strict by a route", member, url(Strict, "routed", "/both"), answeredBy("server-1", "server-2")},
		{"mTLS", "strict to a pod without an identity", member, at(Plain + "/server-2"), answeredBy("server-2")},
		{"mTLS", "no identity to strict", client, at(Strict + "/server-2"), refused},
		{"mTLS", "no identity to strict by a Service", client, url(Strict, "second", "/"), refused},
		{"mTLS", "node to strict", node, at(Strict + "/server-2"), refused},
		{"policy", "the service account that is allowed", member, url(Strict, "guarded", "/"), answeredBy("guarded")},
		{"policy", "another service account", stranger, url(Strict, "guarded", "/"), refused},
		{"policy", "a request that is allowed", stranger, url(Strict, "reading", "/open"), answeredBy("reading")},
		{"policy", "another request", stranger, url(Strict, "reading", "/closed"), Want{Status: 403}},
	}...)
	if t.gateway != "" {
		out = append(out, Case{"Gateway", "pod to Gateway", client, "http://" + t.gateway + "/", answeredBy("server-1", "server-2")},
			Case{"Gateway", "node to Gateway", node, "http://" + t.gateway + "/", answeredBy("server-1", "server-2")})
	}
	return out
}
