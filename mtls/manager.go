package mtls

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	issueTimeout = 10 * time.Second
	// recheck bounds a wait: timers stand still while a machine sleeps, and do not follow when its clock is set.
	recheck = time.Minute
)

// Manager keeps an SVID in st.SVIDs for every identity of this node's workloads and of the gateways, the bundle in
// st.Bundles, and how each identity fares in st.Certified. It asks its source for no other identity.
type Manager struct {
	st  *state.State
	src Source
	cfg Config

	lives map[model.Identity]*life // of Run alone
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
	feed := m.st.Feed(m.st.Workloads, m.st.Gateways)
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
	m.publish(kept, gone)
	m.report()
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
	for id, l := range m.lives {
		svid, ok := m.st.SVIDs.Get(snap, string(id))
		if l.failures > 0 || ok && bundle != nil && verifySVID(svid, bundle, now) != nil {
			l.due = now
		}
	}
}

// sweep removes the SVIDs that an earlier process kept and nobody needs.
func (m *Manager) sweep() {
	keep := map[model.Identity]bool{}
	for id := range m.lives {
		keep[id] = true
	}
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
		m.report()
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

// settle plans what comes after an attempt, and reports whether it gave an SVID.
func (m *Manager) settle(id model.Identity, svid *model.SVID, err error) bool {
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
	wait := recheck
	for _, l := range m.lives {
		wait = min(wait, l.due.Sub(now))
		if !l.notAfter.IsZero() && !l.overdue {
			wait = min(wait, l.overdueAt.Sub(now)+time.Millisecond)
		}
	}
	return max(wait, 0)
}

// report writes how each identity fares. It is called when the lives or their plans changed.
func (m *Manager) report() {
	rows := m.certified()
	w := m.st.Write(m.st.Certified)
	defer w.Abort()
	for c := range m.st.Certified.All(w.Snapshot()) {
		if rows[c.Identity] == nil {
			m.st.Certified.Delete(w, c.Key())
		}
	}
	for _, c := range rows {
		m.st.Certified.Put(w, c)
	}
	w.Commit()
}

func (m *Manager) certified() map[model.Identity]*model.Certified {
	out := make(map[model.Identity]*model.Certified, len(m.lives))
	for id, l := range m.lives {
		c := &model.Certified{Identity: id, NotAfter: l.notAfter, RenewAt: l.due, OverdueAt: l.overdueAt, Failures: l.failures}
		if l.err != nil {
			c.Error = l.err.Error()
		}
		out[id] = c
	}
	return out
}
