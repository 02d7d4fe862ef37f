package mtls

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// bench is a manager over a CA that can be made to fail and counts what it is asked for.
type bench struct {
	t       *testing.T
	st      *state.State
	m       *Manager
	ca      *CA
	log     logs
	fails   atomic.Bool
	changed chan struct{}

	mu    sync.Mutex
	asked []model.Identity
}

// certified returns the row of an identity; nil if there is none.
func (b *bench) certified(id model.Identity) *model.Certified {
	c, _ := b.st.Certified.Get(b.st.Snapshot(), string(id))
	return c
}

func (b *bench) problem(id model.Identity) string { return b.certified(id).Problem(time.Now()) }

// logs is a buffer that the manager writes while the test reads.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (b *bench) Sign(ctx context.Context, ids []model.Identity) []Issued {
	b.mu.Lock()
	b.asked = append(b.asked, ids...)
	b.mu.Unlock()
	if b.fails.Load() {
		return slices.Repeat([]Issued{{Err: errors.New("no signature today")}}, len(ids))
	}
	return b.ca.Sign(ctx, ids)
}

func (b *bench) Changed() <-chan struct{} { return b.changed }

func (b *bench) Bundle() *model.Bundle { return b.ca.Bundle() }

// inBubble runs a test whose time goes by only when everything waits.
func inBubble(t *testing.T, test func(t *testing.T, b *bench)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, st: state.New(state.NewDB()), ca: openCA(t, dir)}
		b.m = New(b.st, b, Config{TrustDomain: td, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- b.m.Run(ctx) }()
		test(t, b)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ends with %v", err)
		}
	})
}

func (b *bench) put(workloads ...*model.Workload) {
	w := b.st.Write(b.st.Workloads)
	for _, o := range workloads {
		b.st.Workloads.Put(w, o)
	}
	w.Commit()
	synctest.Wait()
}

func (b *bench) delete(key string) {
	w := b.st.Write(b.st.Workloads)
	b.st.Workloads.Delete(w, key)
	w.Commit()
	synctest.Wait()
}

func (b *bench) svids() map[model.Identity]*model.SVID {
	out := map[model.Identity]*model.SVID{}
	for s := range b.st.SVIDs.All(b.st.Snapshot()) {
		out[s.Identity] = s
	}
	return out
}

// valid checks that these identities, and no others, have SVIDs that the published bundle verifies now.
func (b *bench) valid(want ...model.Identity) {
	b.t.Helper()
	bundle, ok := b.st.Bundles.Get(b.st.Snapshot(), td)
	if !ok {
		b.t.Fatal("no bundle")
	}
	got := b.svids()
	if len(got) != len(want) {
		b.t.Errorf("SVIDs of %v, want %v", got, want)
	}
	for _, id := range want {
		if got[id] == nil {
			b.t.Errorf("no SVID of %s", id)
		} else if err := verify(got[id], bundle); err != nil {
			b.t.Errorf("%s: %v", id, err)
		}
	}
}

func pod(name, sa string, local bool) *model.Workload {
	return &model.Workload{Namespace: "ns", Name: name, ServiceAccount: sa, Local: local, MTLS: model.MTLSStrict,
		Identity: model.NewIdentity(td, "ns", sa)}
}

func TestIdentitiesFollowWorkloads(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		one, two := model.NewIdentity(td, "ns", "one"), model.NewIdentity(td, "ns", "two")
		synctest.Wait()
		b.valid() // the bundle is there before any workload
		b.put(pod("a", "one", true), pod("b", "one", true), pod("far", "far", false),
			&model.Workload{Namespace: "ns", Name: "plain", Local: true})
		b.valid(one)
		b.put(pod("c", "two", true))
		b.valid(one, two)
		b.delete("ns/a")
		b.valid(one, two) // b still has it
		b.delete("ns/b")
		b.valid(two)
		b.put(pod("c", "two", false))
		b.valid()

		w := b.st.Write(b.st.Gateways)
		gw := model.NewIdentity(td, "edge", "gateway")
		b.st.Gateways.Put(w, &model.Gateway{Namespace: "edge", Name: "gateway", Identity: gw})
		w.Commit()
		synctest.Wait()
		b.valid(gw)
		if far := model.NewIdentity(td, "ns", "far"); slices.Contains(b.asked, far) {
			t.Error("an SVID was asked for an identity of another node")
		}
		if n := len(b.asked); n != 3 {
			t.Errorf("%d SVIDs were issued for 3 identities: %v", n, b.asked)
		}
	})
}

func TestRotation(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := model.NewIdentity(td, "ns", "one")
		b.put(pod("a", "one", true))
		serials := map[string]bool{}
		for range 24 * 60 { // a day, minute by minute
			b.valid(id)
			svid := b.svids()[id]
			serials[svid.Serial] = true
			if left := time.Until(svid.NotAfter); left < DefaultTTL*4/10 {
				t.Fatalf("an SVID has %v left", left)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		serials[b.svids()[id].Serial] = true // one may have come in the last minute
		// Every 27 to 33 minutes.
		if n := len(serials); n < 42 || n > 55 {
			t.Errorf("%d SVIDs in a day", n)
		}
		if len(serials) != len(b.asked) {
			t.Errorf("%d SVIDs issued, %d published", len(b.asked), len(serials))
		}
	})
}

func TestFailureAndAlarm(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := model.NewIdentity(td, "ns", "one")
		status := func() *model.Certified {
			synctest.Wait()
			return b.certified(id)
		}
		b.put(pod("a", "one", true))
		b.fails.Store(true)
		time.Sleep(35 * time.Minute)
		if st := status(); st.Failures == 0 || st.Overdue(time.Now()) || st.Error != "no signature today" {
			t.Errorf("past half of its life: %+v", st)
		}
		if log := b.log.String(); !strings.Contains(log, string(id)) || !strings.Contains(log, "presentOneEnds=20") {
			t.Errorf("the log does not say what failed and until when it matters not: %s", log)
		}
		time.Sleep(6 * time.Minute)
		if st := status(); !st.Overdue(time.Now()) || !st.Valid(time.Now()) {
			t.Errorf("past two thirds of its life: %+v", st)
		}
		b.valid(id) // the old one still serves
		time.Sleep(20 * time.Minute)
		if st := status(); st.Valid(time.Now()) || st.Problem(time.Now()) != "no signature today" {
			t.Errorf("past its end: %+v", st)
		}
		// About one attempt a minute in half an hour: neither given up nor hammered.
		if n := status().Failures; n < 25 || n > 50 {
			t.Errorf("%d attempts", n)
		}
		for _, alarm := range []string{"past two thirds", "has ended"} {
			if n := strings.Count(b.log.String(), alarm); n != 1 {
				t.Errorf("the log says %d times %q", n, alarm)
			}
		}
		b.fails.Store(false)
		time.Sleep(2 * time.Minute)
		b.valid(id)
		if st := status(); st.Failures != 0 || st.Overdue(time.Now()) || st.Problem(time.Now()) != "" || st.Error != "" {
			t.Errorf("when it works again: %+v", st)
		}
	})
}

func TestOneBadIdentityHoldsNoneUp(t *testing.T) {
	inBubble(t, func(_ *testing.T, b *bench) {
		bad := pod("bad", "x", true)
		bad.Identity = "spiffe://elsewhere/ns/ns/sa/x"
		b.put(bad, pod("a", "one", true))
		b.valid(model.NewIdentity(td, "ns", "one"))
	})
}

func BenchmarkIssue(b *testing.B) {
	ca, err := OpenCA(Config{TrustDomain: td, StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := ca.Issue(context.Background(), model.NewIdentity(td, "a", "b")); err != nil {
			b.Fatal(err)
		}
	}
}
