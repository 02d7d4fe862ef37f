package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
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
}

func newEnforceTest(t *testing.T) *enforceTest {
	e := &enforceTest{t: t, calls: make(chan struct{}, 100)}
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
	}
	e.st.MarkSynced()
	return e
}

// policy gives the workload a policy, and returns the revision of its row.
func (e *enforceTest) policy(p *model.Policy) uint64 {
	w := e.st.Write(e.st.Workloads)
	e.st.Workloads.Put(w, &model.Workload{Namespace: "ns", Name: "a", Local: true, Policy: p})
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
	select {
	case <-e.calls:
		e.t.Fatalf("connections were closed %s", when)
	case <-time.After(30 * time.Millisecond):
	}
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
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	before := e.policy(nil)
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
	e.attempt() // and once more for what came in meanwhile
	e.attempt()
	e.none("that are allowed")

	// What the kernel cannot hold does not keep connections alive.
	revision = e.policy(&model.Policy{Names: []string{"ns/other"}, Rules: []model.PolicyRule{}})
	e.accepted(revision)
	e.none("before the kernel answered")
	e.programmed(0, "the map is full")
	e.attempt()
}
