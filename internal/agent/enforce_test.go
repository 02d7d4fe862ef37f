package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/state"
)

func TestCovers(t *testing.T) {
	const alice, bob = model.Identity("spiffe://td/ns/a/sa/alice"), model.Identity("spiffe://td/ns/b/sa/bob")
	get := []model.HTTPRule{{Methods: []string{"GET"}}}
	policy := func(rules ...model.PolicyRule) *model.Policy { return &model.Policy{Rules: rules} }
	from := func(id model.Identity, ports ...uint16) model.PolicyRule {
		return model.PolicyRule{Sources: []model.PolicySource{{Identity: id}}, Ports: ports}
	}
	anybody := func(ports ...uint16) model.PolicyRule { return model.PolicyRule{Ports: ports} }
	for name, c := range map[string]struct {
		before, now *model.Policy
		peer        model.Identity
		port        uint16
		want        bool
	}{
		"no policy any more":            {policy(), nil, alice, 0, true},
		"first policy":                  {nil, policy(from(alice, 80)), alice, 0, false},
		"first policy allows all":       {nil, policy(from(alice)), alice, 0, true},
		"first policy, in the clear":    {nil, policy(from(alice)), "", 80, false},
		"the same":                      {policy(from(alice, 80)), policy(from(alice, 80)), alice, 0, true},
		"another peer goes":             {policy(from(alice), from(bob)), policy(from(alice)), alice, 0, true},
		"this peer goes":                {policy(from(alice), from(bob)), policy(from(alice)), bob, 0, false},
		"by namespace instead":          {policy(from(alice)), policy(model.PolicyRule{Sources: []model.PolicySource{{Namespace: "a"}}}), alice, 0, true},
		"a namespace's beginning":       {policy(from(bob)), policy(model.PolicyRule{Sources: []model.PolicySource{{Namespace: "bb"}}}), bob, 0, false},
		"a port goes":                   {policy(from(alice, 80, 81)), policy(from(alice, 80)), alice, 0, false},
		"ports of two rules":            {policy(from(alice, 80, 81)), policy(from(alice, 80), anybody(81)), alice, 0, true},
		"another port, in the clear":    {policy(anybody(80, 81)), policy(anybody(80)), "", 80, true},
		"this port, in the clear":       {policy(anybody(80, 81)), policy(anybody(80)), "", 81, false},
		"all ports, then this one":      {policy(anybody()), policy(anybody(80)), "", 80, true},
		"nothing was allowed":           {policy(), policy(), bob, 0, true},
		"sources that can match nobody": {policy(model.PolicyRule{Sources: []model.PolicySource{}}), policy(), alice, 0, true},
		"requests instead of bytes":     {policy(from(alice)), policy(model.PolicyRule{HTTP: get}), alice, 0, false},
		"bytes instead of requests":     {policy(model.PolicyRule{HTTP: get}), policy(from(alice)), alice, 0, true},
		"the same requests":             {policy(model.PolicyRule{HTTP: get}), policy(model.PolicyRule{HTTP: get}), alice, 0, true},
		"an identity that is not there": {policy(from("")), policy(), "", 80, true},
	} {
		if got := covers(c.now, c.before, c.peer, c.port); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

// enforceTest is an enforcer on rows that the test writes.
type enforceTest struct {
	*enforcer
	t      *testing.T
	calls  chan struct{} // a value for each attempt to close connections
	failed atomic.Bool   // attempts fail
	taken  atomic.Bool   // Envoy's workers have the policy
	behind atomic.Int64  // how often they have yet to take a listener
	asked  chan struct{} // a value for each question for these
}

func newEnforceTest(t *testing.T) *enforceTest {
	e := &enforceTest{t: t, calls: make(chan struct{}, 100), asked: make(chan struct{}, 1000)}
	e.enforcer = &enforcer{
		st: state.New(state.NewDB()), file: filepath.Join(t.TempDir(), "enforced.json"), log: slog.New(slog.DiscardHandler),
		force: map[string]*inForce{},
		closer: func(context.Context, string, datapath.Connections, func(local, remote netip.AddrPort) bool) (int, error) {
			failed := e.failed.Load()
			e.calls <- struct{}{}
			if failed {
				return 0, errors.New("operation not supported")
			}
			return 1, nil
		},
		applied: func(context.Context) (*proxy.Applied, error) {
			taken, behind := e.taken.Load(), e.behind.Load()
			e.asked <- struct{}{}
			return &proxy.Applied{Filters: map[string]bool{"ns/a/hbone": taken, "ns/b/hbone": true}, Behind: behind}, nil
		},
	}
	e.st.MarkSynced()
	return e
}

// policy gives the workload a policy, and returns the revision of its row.
func (e *enforceTest) policy(p *model.Policy) uint64 {
	w := e.st.Write(e.st.Workloads)
	e.st.Workloads.Put(w, &model.Workload{Namespace: "ns", Name: "a", Local: true, Policy: p, Identity: "spiffe://td/ns/ns/sa/a",
		NetNS: "/run/netns/a", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	w.Commit()
	_, revision, _ := e.st.Workloads.Revision(e.st.Snapshot(), "ns/a")
	return revision
}

var enforceSubject = model.Subject{Kind: model.SubjectWorkload, Name: "ns/a"}

func (e *enforceTest) accepted(revision uint64) {
	w := e.st.Write(e.st.Accepted)
	e.st.Accepted.Put(w, &model.Accepted{Subject: enforceSubject, Revision: revision})
	w.Commit()
}

func (e *enforceTest) programmed(revision uint64, err string) {
	w := e.st.Write(e.st.Programmed)
	e.st.Programmed.Put(w, &model.Programmed{Subject: enforceSubject, Revision: revision, Error: err})
	w.Commit()
}

func (e *enforceTest) none(when string) {
	e.t.Helper()
	e.noneFor(30*time.Millisecond, when)
}

func (e *enforceTest) noneFor(d time.Duration, when string) {
	e.t.Helper()
	select {
	case <-e.calls:
		e.t.Fatalf("connections were closed %s", when)
	case <-time.After(d):
	}
}

// ready returns what is closed when the enforcer has seen what is there at its start, which it writes down then.
func (e *enforceTest) ready() <-chan struct{} {
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for {
			if _, err := os.Stat(e.file); err == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return seen
}

// rename puts workload b with a policy in the place of a, in its network namespace.
func (e *enforceTest) rename(p *model.Policy) {
	w := e.st.Write(e.st.Workloads, e.st.Accepted, e.st.Programmed)
	e.st.Workloads.Delete(w, "ns/a")
	e.st.Workloads.Put(w, &model.Workload{Namespace: "ns", Name: "b", Local: true, Policy: p, Identity: "spiffe://td/ns/ns/sa/b",
		NetNS: "/run/netns/a", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	w.Commit()
	_, revision, _ := e.st.Workloads.Revision(e.st.Snapshot(), "ns/b")
	subject := model.Subject{Kind: model.SubjectWorkload, Name: "ns/b"}
	w = e.st.Write(e.st.Accepted, e.st.Programmed)
	e.st.Accepted.Put(w, &model.Accepted{Subject: subject, Revision: revision})
	e.st.Programmed.Put(w, &model.Programmed{Subject: subject, Revision: revision})
	w.Commit()
}

func (e *enforceTest) attempt() {
	e.t.Helper()
	select {
	case <-e.calls:
	case <-time.After(time.Minute):
		e.t.Fatal("nobody closes connections")
	}
}

// TestConnectionsCloseWhenAPolicyIsInForce: Envoy has accepted the workload at its revision, and the kernel holds it.
func TestConnectionsCloseWhenAPolicyIsInForce(t *testing.T) {
	e := newEnforceTest(t)
	before := e.policy(nil)
	e.begin()
	e.accepted(before)
	e.programmed(before, "")
	e.none("without a policy")
	revision := e.policy(&model.Policy{})
	e.none("before Envoy accepted the policy")
	e.accepted(revision)
	e.none("before the kernel holds the policy")
	e.failed.Store(true)
	e.programmed(revision, "")
	e.attempt()
	e.attempt() // the first failed
	e.failed.Store(false)
	e.attempt()
	e.none("that are allowed")

	// What the kernel cannot hold does not keep connections alive.
	revision = e.policy(&model.Policy{Names: []string{"ns/other"}, Rules: []model.PolicyRule{}})
	e.accepted(revision)
	e.none("before the kernel answered")
	e.programmed(0, "the map is full")
	e.attempt()
}

// begin runs the enforcer until the test ends.
func (e *enforceTest) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.run(ctx) }()
	e.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Error(err)
		}
	})
}

// inForce says that Envoy has accepted the workload at a revision, and the kernel holds it.
func (e *enforceTest) inForce(revision uint64) {
	e.programmed(revision, "")
	e.accepted(revision)
}

// waiting waits until the enforcer has asked again whether Envoy's workers have the policy.
func (e *enforceTest) waiting() {
	e.t.Helper()
	for len(e.asked) > 0 {
		<-e.asked
	}
	for range 2 {
		select {
		case <-e.asked:
		case <-time.After(time.Minute):
			e.t.Fatal("nobody asks Envoy's workers")
		}
	}
}

// narrow begins without a policy, and puts one in force that allows nothing.
func (e *enforceTest) narrow() {
	e.t.Helper()
	e.policy(nil)
	e.begin()
	e.inForce(e.policy(&model.Policy{}))
}

// TestConnectionsOfTheNewPolicyLive: connections that Envoy's workers let in by the new policy are not closed.
func TestConnectionsOfTheNewPolicyLive(t *testing.T) {
	t.Run("the workers have it at once", func(t *testing.T) {
		e := newEnforceTest(t)
		e.taken.Store(true)
		e.narrow()
		e.attempt()
		e.noneFor(2*enforceAgain, "that the new policy allows")
	})
	t.Run("the workers have it later", func(t *testing.T) {
		e := newEnforceTest(t)
		e.narrow()
		e.attempt()
		e.waiting()
		e.taken.Store(true)
		e.attempt()
		e.noneFor(2*enforceAgain, "that the new policy allows")
	})
	t.Run("the workers have the listener later than the filter", func(t *testing.T) {
		e := newEnforceTest(t)
		e.taken.Store(true)
		e.behind.Store(2)
		e.narrow()
		e.attempt() // the first look
		e.waiting()
		e.behind.Store(0)
		e.attempt()
		e.noneFor(2*enforceAgain, "that the new policy allows")
	})
	t.Run("a listener was replaced while it warmed", func(t *testing.T) {
		e := newEnforceTest(t)
		e.taken.Store(true)
		e.behind.Store(2)
		e.narrow()
		e.attempt()
		e.attempt() // after enforceAgain
		e.inForce(e.policy(&model.Policy{Names: []string{"ns/other"}}))
		e.attempt()
		e.attempt() // after enforceAgain, as before
		e.noneFor(2*enforceAgain, "that the new policy allows")
	})
	t.Run("Envoy does not tell", func(t *testing.T) {
		e := newEnforceTest(t)
		e.narrow()
		e.attempt()
		e.attempt()
		e.noneFor(2*enforceAgain, "that the new policy allows")
	})
	t.Run("a new pod", func(t *testing.T) {
		e := newEnforceTest(t)
		e.begin()
		<-e.ready()
		e.inForce(e.policy(&model.Policy{}))
		e.noneFor(2*enforceAgain, "of a pod that was never without its policy")
		e.taken.Store(true)
		e.inForce(e.policy(&model.Policy{Names: []string{"ns/other"}}))
		e.attempt()
	})
	t.Run("a pod in another one's network namespace", func(t *testing.T) {
		e := newEnforceTest(t)
		e.policy(nil)
		e.begin()
		<-e.ready()
		e.rename(&model.Policy{})
		e.attempt()
	})
}
