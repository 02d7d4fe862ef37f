package mtls

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	issueTimeout = 10 * time.Second
	// recheck bounds a wait: timers stand still while a machine sleeps, and do not follow when its clock is set.
	recheck = time.Minute
)

// Manager keeps an SVID in st.SVIDs for every identity of this node's workloads and of the gateways, and the bundle in
// st.Bundles. It asks its source for no other identity.
type Manager struct {
	st  *state.State
	src Source
	cfg Config

	mu    sync.Mutex
	lives map[model.Identity]*life
}

// New makes a manager; Run makes it work.
func New(st *state.State, src Source, cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{st: st, src: src, cfg: cfg, lives: map[model.Identity]*life{}}
}

// Run works until ctx is done, and returns its error. What is in the tables then stays there.
func (m *Manager) Run(ctx context.Context) error {
	feed := m.st.Feed()
	defer feed.Close()
	deps := state.NewDeps[string]()
	const reader = "identities"
	m.update(deps, reader)
	synced := m.st.Synced()
	for {
		wait := m.pass(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-feed.Ready():
			timer.Stop()
			if keys, _ := feed.Take(); len(deps.Dirty(keys)) > 0 {
				m.update(deps, reader)
			}
		case <-m.src.Changed():
			timer.Stop()
			m.retry()
		case <-synced:
			timer.Stop()
			synced = nil // once
			m.sweep()
		case <-timer.C:
		}
	}
}

// update learns which identities are wanted, and withdraws the SVIDs of the others.
func (m *Manager) update(deps *state.Deps[string], reader string) {
	s := m.st.Track()
	wanted := m.wanted(s)
	deps.Set(reader, s.Reads())

	m.mu.Lock()
	var gone []model.Identity
	for id := range m.lives {
		if !wanted[id] {
			delete(m.lives, id)
			gone = append(gone, id)
		}
	}
	var kept []*model.SVID
	for id := range wanted {
		if m.lives[id] != nil {
			continue
		}
		now := time.Now()
		m.lives[id] = &life{due: now}
		if svid := m.cfg.Kept.load(id, m.src.Bundle(), now); svid != nil {
			m.lives[id].resumed(now, svid)
			kept = append(kept, svid)
		}
	}
	m.mu.Unlock()
	m.publish(kept, gone)
	for _, id := range gone {
		if err := m.cfg.Kept.remove(id); err != nil {
			m.cfg.Log.Warn("an SVID that is not needed any more stays on the disk", "identity", id, "error", err)
		}
	}
}

// publish writes what the planes read, in one transaction. The bundle is in it, for whoever sees an SVID must see roots
// that verify it.
func (m *Manager) publish(made []*model.SVID, gone []model.Identity) {
	w := m.st.Write(m.st.SVIDs, m.st.Bundles)
	defer w.Abort()
	if b := m.src.Bundle(); b != nil {
		m.st.Bundles.Put(w, b)
	}
	for _, svid := range made {
		m.st.SVIDs.Put(w, svid)
	}
	for _, id := range gone {
		m.st.SVIDs.Delete(w, string(id))
	}
	w.Commit()
}

// retry makes due what failed, and what the bundle does not verify any more: a CA that was set up anew trusts nothing of
// the one before, nor do peers that know of it.
func (m *Manager) retry() {
	bundle, snap, now := m.src.Bundle(), m.st.Snapshot(), time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, l := range m.lives {
		svid, ok := m.st.SVIDs.Get(snap, string(id))
		if l.failures > 0 || ok && bundle != nil && verifySVID(svid, bundle, now) != nil {
			l.due = now
		}
	}
}

// sweep removes the SVIDs that an earlier process kept and nobody needs.
func (m *Manager) sweep() {
	m.mu.Lock()
	keep := map[model.Identity]bool{}
	for id := range m.lives {
		keep[id] = true
	}
	m.mu.Unlock()
	if err := m.cfg.Kept.sweep(keep); err != nil {
		m.cfg.Log.Warn("SVIDs that are not needed any more stay on the disk", "error", err)
	}
}

// wanted gives the identities in use on this node. One that is not of the mesh's form was made by a mistake elsewhere;
// its life ends in the log of the source that refuses it.
func (m *Manager) wanted(s *state.Snapshot) map[model.Identity]bool {
	out := map[model.Identity]bool{}
	for w := range m.st.Workloads.By(s, state.ByLocal, "true") {
		if w.Identity != "" {
			out[w.Identity] = true
		}
	}
	for g := range m.st.Gateways.All(s) {
		if g.Identity != "" {
			out[g.Identity] = true
		}
	}
	return out
}

// pass issues what is due and tells how long nothing else will be due.
func (m *Manager) pass(ctx context.Context) time.Duration {
	m.publish(nil, nil)
	for ids := range slices.Chunk(m.due(time.Now()), MaxBatch) {
		var made []*model.SVID
		for i, r := range m.sign(ctx, ids) {
			if ctx.Err() != nil {
				break // what is issued is lost; it is asked for again
			}
			if m.settle(ids[i], r.SVID, r.Err) {
				made = append(made, r.SVID)
			}
		}
		m.publish(made, nil)
	}
	m.alarm(time.Now())
	return m.wait(time.Now())
}

func (m *Manager) sign(ctx context.Context, ids []model.Identity) []Issued {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	return m.src.Sign(ctx, ids)
}

// due lists the identities that need an SVID now, those that end first first.
func (m *Manager) due(now time.Time) []model.Identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []model.Identity
	for id, l := range m.lives {
		if !now.Before(l.due) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b model.Identity) int {
		return cmp.Or(m.lives[a].notAfter.Compare(m.lives[b].notAfter), cmp.Compare(a, b))
	})
	return out
}

// settle plans what comes after an attempt, and tells whether it gave an SVID.
func (m *Manager) settle(id model.Identity, svid *model.SVID, err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lives[id]
	now := time.Now()
	if err != nil {
		l.failed(now, err)
		m.cfg.Log.Warn("an SVID could not be issued; it will be tried again", "identity", id, "error", err,
			"attempt", l.failures, "next", l.due, "presentOneEnds", l.ends())
		return false
	}
	if l.failures > 0 || l.overdue {
		m.cfg.Log.Info("an SVID is issued again", "identity", id, "failures", l.failures, "notAfter", svid.NotAfter)
	}
	l.issued(now, svid)
	if err := m.cfg.Kept.save(svid); err != nil {
		m.cfg.Log.Warn("an SVID cannot be kept on the disk; it is lost when the agent restarts", "identity", id, "error", err)
	}
	m.cfg.Log.Debug("an SVID was issued", "identity", id, "serial", svid.Serial, "notAfter", svid.NotAfter, "renewAt", l.due)
	return true
}

// alarm speaks once of every SVID that is past two thirds of its life, and once when it has ended.
func (m *Manager) alarm(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, l := range m.lives {
		if !l.notAfter.IsZero() && !l.overdue && now.After(l.overdueAt) {
			l.overdue = true
			m.cfg.Log.Error("an SVID is past two thirds of its life and was not renewed; check the source of SVIDs",
				"identity", id, "notAfter", l.notAfter, "failures", l.failures, "error", l.err)
		}
		if !l.notAfter.IsZero() && !l.ended && now.After(l.notAfter) {
			l.ended = true
			m.cfg.Log.Error("an SVID has ended: peers refuse this identity until it is renewed", "identity", id,
				"notAfter", l.notAfter, "error", l.err)
		}
	}
}

func (m *Manager) wait(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	wait := recheck
	for _, l := range m.lives {
		wait = min(wait, l.due.Sub(now))
		if !l.notAfter.IsZero() && !l.overdue {
			wait = min(wait, l.overdueAt.Sub(now)+time.Millisecond)
		}
	}
	return max(wait, 0)
}

// IdentityStatus tells how an identity of this node fares.
type IdentityStatus struct {
	Identity  model.Identity `json:"identity"`
	NotAfter  time.Time      `json:"notAfter,omitzero"` // of the present SVID; zero where there is none yet
	RenewAt   time.Time      `json:"renewAt"`           // next attempt
	Failures  int            `json:"failures,omitempty"`
	LastError string         `json:"lastError,omitempty"`
	// Overdue: past two thirds of its life. Ended: past its end; peers refuse it.
	Overdue bool `json:"overdue,omitempty"`
	Ended   bool `json:"ended,omitempty"`
}

// Trouble tells why an identity has no SVID that holds; "" if it has one.
func (m *Manager) Trouble(id model.Identity) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch l := m.lives[id]; {
	case l == nil:
		return "the agent has not asked for it yet"
	case !l.notAfter.IsZero() && time.Now().Before(l.notAfter):
		return ""
	case l.err != nil:
		return l.err.Error()
	}
	return "the agent waits for it to be signed"
}

// Status lists all identities of this node, by name.
func (m *Manager) Status() []IdentityStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]IdentityStatus, 0, len(m.lives))
	for id, l := range m.lives {
		st := IdentityStatus{Identity: id, NotAfter: l.notAfter, RenewAt: l.due, Failures: l.failures, Overdue: l.overdue, Ended: l.ended}
		if l.err != nil {
			st.LastError = l.err.Error()
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b IdentityStatus) int { return cmp.Compare(a.Identity, b.Identity) })
	return out
}
