package hostaddr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// announceAt is when neighbours are told of an address that was taken over, from then on: again, for frames are lost, and
// because a neighbour may not heed the first (Linux does not within a second of another answer).
var announceAt = []time.Duration{0, 200 * time.Millisecond, 1200 * time.Millisecond, 3 * time.Second, 6 * time.Second}

// Announcer puts the addresses of Gateways that this node answers for on its links, where the kernel answers ARP and NDP
// for them, and takes away those that another node answers for. LocalRoutes takes its place where there is one node only.
type Announcer struct {
	log     *slog.Logger
	err     error                              // of the last reconcile
	alone   bool                               // local routes of a time when this node was the only one may be left
	entries map[netip.Addr]*model.Announcement // as of the last reconcile
	rounds  map[netip.Addr]*round
}

// round is where an address's announcements are in announceAt.
type round struct {
	began time.Time
	next  int
	link  int
}

// NewAnnouncer returns an Announcer that puts nothing on the links before Run.
func NewAnnouncer(log *slog.Logger) *Announcer {
	if log == nil {
		log = slog.Default()
	}
	return &Announcer{
		log: log, alone: true,
		entries: map[netip.Addr]*model.Announcement{}, rounds: map[netip.Addr]*round{},
	}
}

// Run keeps the links as st.Announcements says, until ctx ends. Addresses stay when it returns, so that traffic goes on;
// Remove removes them.
func (a *Announcer) Run(ctx context.Context, st *state.State) error {
	feed := st.Feed(st.Gateways, st.Announcements, st.HostAddresses)
	defer feed.Close()
	synced := st.Synced()
	var retry <-chan time.Time
	due := true
	for {
		keys, snap := feed.Take()
		// The host's addresses change when somebody flushes ours.
		if due || changed(keys, st.Gateways.AnyKey(), st.Announcements.AnyKey(), st.HostAddresses.AnyKey()) {
			retry = nil
			if a.setError(a.reconcile(snap, st, synced == nil)) {
				retry = time.After(retryAfter)
			}
		}
		next := a.tell(time.Now())
		due = true
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			due = false
		case <-next:
			due = false
		case <-retry:
		case <-synced:
			synced = nil
		}
	}
}

// reconcile changes what is on the links. An address without an announcement stays where it is: who answers is not
// decided yet, or cannot be.
func (a *Announcer) reconcile(snap *state.Snapshot, st *state.State, synced bool) error {
	if !a.alone && idle(snap, st) {
		return nil
	}
	have, err := listAddresses()
	if err != nil {
		return err
	}
	wanted := map[netip.Addr]bool{}
	for g := range st.Gateways.All(snap) {
		for _, addr := range g.Addresses {
			wanted[addr] = true
		}
	}
	var errs []error
	placed := map[netip.Addr]int{}
	for _, h := range have {
		addr := h.prefix.Addr()
		if !h.ours {
			continue
		}
		e, known := st.Announcements.Get(snap, addr.String())
		if known && !e.Here || synced && !wanted[addr] {
			if err := removeAddress(addr, h.link); err != nil {
				errs = append(errs, err)
			} else {
				a.log.Info("no longer answers for an address", "address", addr)
			}
			continue
		}
		placed[addr] = h.link
	}
	entries := map[netip.Addr]*model.Announcement{}
	for e := range st.Announcements.All(snap) {
		entries[e.Address] = e
		if e.Here && wanted[e.Address] {
			errs = append(errs, a.place(e, placed))
		}
	}
	a.entries = entries
	if synced && a.alone {
		err := removeAddresses()
		a.alone = err != nil
		errs = append(errs, err)
	}
	maps.DeleteFunc(a.rounds, func(addr netip.Addr, _ *round) bool { _, ok := placed[addr]; return !ok })
	return errors.Join(errs...)
}

// idle reports whether no Gateway has an address, and none of ours is on a link.
func idle(snap *state.Snapshot, st *state.State) bool {
	for g := range st.Gateways.All(snap) {
		if len(g.Addresses) > 0 {
			return false
		}
	}
	for h := range st.HostAddresses.All(snap) {
		if h.Announced {
			return false
		}
	}
	return st.Announcements.Len(snap) == 0
}

// place puts an address on its link, if it is not there, and begins to tell the neighbours where something changed.
func (a *Announcer) place(e *model.Announcement, placed map[netip.Addr]int) error {
	link, there := placed[e.Address]
	if !there {
		l, err := linkFor(e.Address)
		if err != nil {
			return err
		}
		link = l.Attrs().Index
		if err := addAddress(e.Address, link); err != nil {
			return err
		}
		a.log.Info("answers for an address", "address", e.Address, "link", l.Attrs().Name)
		placed[e.Address] = link
	}
	if old := a.entries[e.Address]; !there || old == nil || !old.Here || !slices.Equal(old.Holders, e.Holders) {
		a.rounds[e.Address] = &round{began: time.Now(), link: link}
	}
	return nil
}

// tell sends what is due to the neighbours, and gives when more is; nil is never.
func (a *Announcer) tell(now time.Time) <-chan time.Time {
	var next time.Time
	for addr, r := range a.rounds {
		if !now.Before(r.began.Add(announceAt[r.next])) {
			if err := announce(addr, r.link); err != nil {
				a.log.Warn("neighbours are not told of an address; they find it when they ask", "error", err)
			}
			r.next++
		}
		if r.next == len(announceAt) {
			delete(a.rounds, addr)
		} else if at := r.began.Add(announceAt[r.next]); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if next.IsZero() {
		return nil
	}
	return time.After(time.Until(next))
}

// setError logs why the links are not as they should be, when that changes. It reports whether there is an error.
func (a *Announcer) setError(err error) bool {
	if err != nil && fmt.Sprint(err) != fmt.Sprint(a.err) {
		a.log.Error("failed to bring the host's links in line with the Gateways' addresses", "error", err)
	}
	a.err = err
	return err != nil
}
