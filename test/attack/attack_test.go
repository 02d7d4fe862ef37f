// Package attack attacks a whole real node as an outsider, a tenant or another node would, while a neighbour's requests
// are measured. Each case prints a line with its figure. It fails if what should be refused is served, if the neighbour
// is not served, or, by make attack, if the neighbour's p99 grows beyond its bound.
//
//	attack_test.go     the cases
//	arena_test.go      the node and its pods
//	neighbour_test.go  what a neighbour notices of an attack
//	process_test.go    attackers are processes in their pod
//	sweep_test.go, headers_test.go, idle_test.go, ...  the attacks
//
// A short form is part of make test: cases without "long", and no bounds of time.
package attack

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// long is set by make attack: all cases, and bounds of the neighbour's p99.
var long = os.Getenv("WEFT_TEST_LONG") != ""

// attack is one case. It returns its figure.
type attack struct {
	id, name string
	long     bool // only by make attack
	run      func(*testing.T, *arena) string
}

// TestAttack attacks a node as it is by default, and one whose authenticated bytes go by Envoy.
func TestAttack(t *testing.T) {
	t.Run("default", attackDefault)
	if long {
		t.Run("HBONE", attackHBONE)
	}
}

func attackDefault(t *testing.T) {
	run(t, newArena(t), []attack{
		{"A1", "sweep of a peer's ports, by weft tunnel", false, sweepPorts},
		{"A2", "requests with large headers that never end", true, largeHeaders},
		{"A2", "uploads and answers that nobody reads", true, unreadBodies},
		{"A3", "idle connections to port 15008", true, idleHBONE},
		{"A3", "idle connections to port 15008 of a permissive pod", true, idlePermissive},
		{"A3", "idle connections to port 15009", false, idleTunnel},
		{"A3", "silent connections to a port that may speak HTTP", true, idleUndeclared},
		{"A3", "ports 15008 and 15009 where nobody authenticates", false, ownPortsOfOthers},
		{"A3", "connections to a routed port, reset at once", true, floodRouted},
		{"A3", "connections by weft tunnel, reset at once", true, floodBytes},
		{"A3", "connections of an outsider to port 15008, reset at once", true, floodHBONE},
		{"A4", "Services with all ports that fit", true, manyPorts},
		{"A5", "routes with thousands of regular expressions", true, manyExpressions},
		{"A5", "routes with long rules", true, longRules},
		{"A5", "hosts below a wildcard with many rules", true, widerHosts},
		{"A5", "policies with hundreds of thousands of paths", true, manyPaths},
		{"A5", "regular expressions and long paths", true, longPaths},
		{"A5", "thirty thousand rules on another namespace's Service", true, foreignRules},
		{"A1", "sweep of the ports of a tenant's own Services", true, sweepOwnPorts},
		{"A6", "idle connections to a Gateway", true, idleGateway},
		{"A6", "connections to a Gateway, reset at once", true, floodGateway},
		{"A6", "requests to a Gateway, reset at once", true, resetGateway},
		{"A6", "TLS handshakes with a Gateway, reset when begun", true, floodGatewayTLS},
		{"B1", "a strict pod's address claimed by another Pod", true, claimedAddress},
		{"B2", "addresses taken by spec.externalIPs", true, externalAddress},
		{"B4", "another namespace's pod in an EndpointSlice", true, foreignEndpoint},
		{"B4", "endpoints at addresses that are no place in the network", true, oddEndpoints},
		{"B6", "what Envoy and weft tunnel keep of root", false, privileges},
		{"B7", "requests to the port of a strict pod's probe", false, probedPort},
		{"B8", "a policy's Service relabelled while no agent runs", false, relabelledService},
		{"B9", "a pod's label against what its namespace enforces", false, weakerLabel},
		{"B10", "a port of the mesh taken before a pod gets its listener", false, takenPort},
		{"B11", "a tenant's client who says that he is another Gateway", false, gatewayPretence},
		{"R1", "a pod's mode changed all the time", false, flippedModes},
		{"R2", "a pod's address given to another namespace's pod", false, inheritedAddress},
		{"R3", "a policy and its Service made, changed and deleted all the time", false, flippedPolicy},
		{"T1", "sessions without a certificate of the mesh", false, strangers},
		{"T1", "odd handshakes at ports 15008 and 15009", false, oddHandshakes},
		{"T1", "sessions with long chains of certificates of nobody", false, longChains},
		{"T2", "sessions of one peer", true, manySessions},
		{"T3", "streams of one peer", true, manyStreams},
		{"T4", "streams to an application that does not read", true, slowReaders},
	})
}

func attackHBONE(t *testing.T) {
	run(t, newArena(t, "--bytes=hbone"), []attack{
		{"A1", "sweep of a peer's ports, by HBONE", true, sweepPorts},
	})
}

func run(t *testing.T, a *arena, cases []attack) {
	for _, c := range cases {
		if c.long && !long {
			continue
		}
		t.Run(c.id+" "+c.name, func(t *testing.T) {
			began, figure, verdict := time.Now(), "no figure", "held"
			defer func() {
				if t.Failed() {
					verdict = "FAILED"
					t.Log(a.Logs())
				}
				fmt.Printf("%-3s %-55s %-7s %s (%.0f s)\n", c.id, c.name, verdict, figure, time.Since(began).Seconds())
			}()
			figure = c.run(t, a)
		})
	}
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(act(role, os.Args[1:]))
	}
	os.Exit(m.Run())
}
