package transparency

import (
	"slices"
	"strings"
	"testing"
)

// Cases that are not played on some paths, because what comes depends on chance.

// byEnvoy: Envoy's threads accept connections independently of each other, so their order is lost. And Envoy takes fewer than
// 1000 connections of a listener where the limit of open files is as low as 20,000.
var byEnvoy = []string{"100 connections are accepted in order", "1000 connections that are open at once"}

// beforeAnswer: the client waits for the answer to its prelude as it connects, and the server has not accepted then, or resets
// the connection at once, which may overtake the answer.
var beforeAnswer = []string{
	"the server accepts late",
	"the server accepts after the client has sent 100,000 bytes and closed",
	"the server resets on accept",
	"the server closes with unread bytes",
	"the client's events at a reset",
}

// bothEnd: an Envoy passes the bytes from one of its listeners to another, and resets a connection between them of which both
// ends have closed their directions: the last bytes may be lost. See docs/design/envoy.md, "Known faults".
var bothEnd = []string{"both send 8 MiB and close their directions", "both write and do not read, then both read", "small buffers"}

// samePorts: Envoy connects to the application from the client's address, and may take the port of another connection of the
// client to the same port. One of the two is reset or refused. See docs/design/envoy.md, "Known faults".
var samePorts = []string{"1000 connections, 5 at once", "30 connections that are open at once", "many to one: 32 uploads of 1 MiB at once"}

// stalls fill the windows that all HBONE connections of two pods share, or have bytes that HBONE loses by chance. See
// docs/design/tunnel.md, "Why".
var stalls = []string{
	"16 unread downloads beside small requests",
	"16 unread uploads beside small requests",
	"the client stops reading for a while",
	"the server sends 32 MiB and closes, the client waits before it reads",
	"the client sends 32 MiB and closes, the server waits before it reads",
	"the client resets with full buffers before a server that does not read",
	"the server resets with full buffers before a client that does not read",
	"the server sends 17 MiB and closes",
	"the server sends 64 MiB and closes",
}

// difference is what paths show instead of what a direct connection does, and why.
type difference struct {
	reason string
	on     func(path) bool
	who    string // the client or the server
	// Where the end of a direct connection observes old, which may be several lines or a part of one, this one observes new. Where
	// there is more of that, chance decides.
	old   string
	new   []string
	cases []string
}

const client, server = "client", "server"

// Kinds of paths.
func tunnelled(p path) bool { return p.by == byTunnel }
func hbone(p path) bool     { return p.by == byHBONE }
func gateways(p path) bool  { return strings.HasPrefix(p.name, "Gateway") }
func tlsRoute(p path) bool  { return len(p.prelude) > 0 }

// inbound paths are taken by Envoy at the server's pod, in the clear.
func inbound(p path) bool { return p.server.pod.Name == guarded+"-s" && p.by == byItself }

// envoys are paths whose bytes pass an Envoy.
func envoys(p path) bool { return gateways(p) || tlsRoute(p) || inbound(p) || hbone(p) }

func either(kinds ...func(path) bool) func(path) bool {
	return func(p path) bool {
		return slices.ContainsFunc(kinds, func(k func(path) bool) bool { return k(p) })
	}
}

func but(a, b func(path) bool) func(path) bool { return func(p path) bool { return a(p) && !b(p) } }

var (
	resetsByServer = []string{
		"the server resets in the middle of an answer",
		"the server resets after 8 MiB that were read",
		"the server resets after the client closed its direction",
		"the server closes with unread bytes",
		"the server resets on accept",
	}
	serverEndsFirst = []string{
		"the server closes its direction first, then 2 MiB come",
		"the server closes its direction without a byte, then 2 MiB come",
	}
	resetsByClient = []string{
		"the client resets on connect",
		"the client resets in the middle of a request",
		"the client resets after the server closed its direction",
		"the client closes with unread bytes",
		"50 resets hurt no other connection",
		"a socket that is dissolved and connected anew",
	}
	unheard      = []string{"nobody listens", "nobody listens any more", "connect() without waiting, and nobody listens"}
	unheardWrite = "nobody listens, and the client writes first"
	names        = []string{"addresses of the ends", "address that the client is bound to", "IPv4 from an IPv6 socket"}
	ports        = []string{"port that the client is bound to", "the port that each end knows of the client is the same"}
)

// differences are all that paths may show.
var differences = []difference{
	{
		"connect() has succeeded when the destination is asked",
		either(tunnelled, tlsRoute), client, "then ECONNREFUSED", []string{"then ECONNRESET"}, append(slices.Clone(unheard), unheardWrite),
	}, {
		"connect() has succeeded when the destination is asked, and Envoy ends a connection that it cannot pass on",
		but(envoys, either(tunnelled, tlsRoute)), client, "then ECONNREFUSED", []string{"then EOF"}, unheard,
	}, {
		"the same; the end of a connection with bytes that Envoy has not read is a reset",
		but(envoys, either(tunnelled, tlsRoute)), client, "then ECONNREFUSED", []string{"then EOF", "then ECONNRESET"}, []string{unheardWrite},
	}, {
		"a server that resets a connection before Envoy has seen it begin has refused it",
		but(either(gateways, inbound), tunnelled), client, "then ECONNRESET", []string{"then EOF", "then ECONNRESET"}, []string{"the server resets on accept"},
	}, {
		"an authenticated connection has no urgent bytes: they come among the others",
		but(tunnelled, envoys), server, `urgent: "!" ok`, []string{`urgent: "" EINVAL`}, []string{"urgent byte apart"},
	}, {
		"the same",
		but(tunnelled, envoys), server, "read 10 bytes, then", []string{"read 11 bytes, but byte 10 is not as sent, then"}, []string{"urgent byte apart"},
	}, {
		"Envoy does not read urgent bytes",
		envoys, server, `urgent: "!" ok`, []string{`urgent: "" EINVAL`}, []string{"urgent byte apart"},
	}, {
		"the same",
		envoys, server, "read 21 bytes", []string{"read 20 bytes, but byte 10 is not as sent"}, []string{"urgent byte that is read in line"},
	}, {
		"a Gateway connects from its node's address",
		gateways, server, "my peer is the client", []string{"my peer is the node"}, names,
	}, {
		"in an Envoy, bytes pass from one listener to another, and a reset there may come as an end first",
		tlsRoute, server, "ECONNRESET", []string{"ECONNRESET", "EPIPE"}, []string{"the client resets while the server writes"},
	}, {
		"the same",
		tlsRoute, client, "ECONNRESET", []string{"ECONNRESET", "EPIPE"}, []string{"the server resets while the client writes"},
	}, {
		"the same",
		tlsRoute, server, "ECONNRESET", []string{"ECONNRESET", "EOF"}, []string{"a socket that is dissolved and connected anew"},
	}, {
		"HBONE carries no resets: they come as ends",
		hbone, client, "ECONNRESET", []string{"EOF"}, resetsByServer,
	}, {
		"the same",
		hbone, server, "ECONNRESET", []string{"EOF"}, resetsByClient,
	}, {
		"the same",
		hbone, client, "ECONNRESET", []string{"EPIPE", "ECONNRESET"}, []string{"the server resets while the client writes"},
	}, {
		"the same",
		hbone, server, "ECONNRESET", []string{"EPIPE", "ECONNRESET"}, []string{"the client resets while the server writes"},
	}, {
		"the same",
		hbone, client, "events: IN RDHUP HUP ERR", []string{"events: IN RDHUP"}, []string{"the client's events at a reset"},
	}, {
		"the same",
		hbone, client, "SO_ERROR: ECONNRESET", []string{"SO_ERROR: ok"}, []string{"the client's events at a reset"},
	}, {
		"the same",
		hbone, server, "events: IN RDHUP HUP ERR", []string{"events: IN RDHUP"}, []string{"the server's events at a reset"},
	}, {
		"the same",
		hbone, server, "SO_ERROR: ECONNRESET", []string{"SO_ERROR: ok"}, []string{"the server's events at a reset"},
	}, {
		"by HBONE nothing arrives after the server closed its direction",
		hbone, server, "read 2097152 bytes", []string{"read 0 bytes"}, serverEndsFirst,
	}, {
		"the same; the client may notice",
		hbone, client, ", then EOF", []string{", then EOF\nwrite: EPIPE", ", then EOF\nwrite: ECONNRESET", ", then EOF"}, serverEndsFirst,
	}, {
		"Envoy connects from a port of its own",
		but(envoys, func(p path) bool { return gateways(p) && tunnelled(p) }), server, ": true", []string{": false"}, ports,
	},
}

// expected gives what a path may show in a case: what a direct connection does with the differences applied, in each
// combination.
func (p path) expected(name string, direct observed, used []bool) []observed {
	out := []observed{direct}
	for i, d := range differences {
		if !d.on(p) || !slices.Contains(d.cases, name) {
			continue
		}
		var next []observed
		for _, o := range out {
			for _, text := range d.new {
				n := o
				side := &n.Server
				if d.who == client {
					side = &n.Client
				}
				if lines := strings.Join(*side, "\n"); strings.Contains(lines, d.old) {
					used[i] = true
					*side = strings.Split(strings.ReplaceAll(lines, d.old, text), "\n")
				}
				next = append(next, n)
			}
		}
		out = next
	}
	return out
}

// TestDifferences checks that the names in the tables are those of cases.
func TestDifferences(t *testing.T) {
	lists := [][]string{byEnvoy, beforeAnswer, bothEnd, samePorts, stalls}
	for _, d := range differences {
		lists = append(lists, d.cases)
	}
	for _, name := range slices.Concat(lists...) {
		if !slices.ContainsFunc(cases, func(c talk) bool { return c.name == name }) {
			t.Errorf("no case %q", name)
		}
	}
}
