package hostaddr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// settle is the quiet time after which changes are written to the table, and settleMost bounds the wait for it: many
	// changes come together, and one of them alone may be older than the last full list.
	settle     = 2 * time.Millisecond
	settleMost = 50 * time.Millisecond
	// resyncPause is the time between two full lists. Changes come too fast when the kernel drops some.
	resyncPause = time.Second
	// receiveBuffer holds some hundred changes, in bytes.
	receiveBuffer = 1 << 20
)

// Watcher keeps the table HostAddresses equal to the addresses of a network namespace's links. The kernel reports each
// change; everything is listed at the start, and again when the kernel could not deliver a change.
type Watcher struct {
	log    *slog.Logger
	st     *state.State
	socket *nl.NetlinkSocket

	links     map[int]bool // by index: has neighbours
	addresses map[string]linkAddress
}

// Watch subscribes to changes in the calling goroutine's network namespace and fills the table. Run follows the changes.
func Watch(st *state.State, log *slog.Logger) (*Watcher, error) {
	if log == nil {
		log = slog.Default()
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to the host's addresses by rtnetlink: %w", err)
	}
	if s.SetReceiveBufferSize(receiveBuffer, true) != nil { // needs CAP_NET_ADMIN
		_ = s.SetReceiveBufferSize(receiveBuffer, false) // a small buffer costs a full list
	}
	w := &Watcher{log: log, st: st, socket: s}
	if err := w.resync(); err != nil {
		_ = s.Close()
		return nil, err
	}
	return w, nil
}

// Close ends the subscription. The table stays as it is.
func (w *Watcher) Close() { _ = w.socket.Close() }

// Run follows changes until ctx ends, and closes the subscription. It must be called in the namespace of Watch.
func (w *Watcher) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.socket.Close() })
	defer func() {
		if stop() {
			_ = w.socket.Close()
		}
	}()
	var changed time.Time // the first change that is not in the table yet; zero if there is none
	for {
		wait := time.Duration(0) // for ever
		if !changed.IsZero() {
			wait = settle
		}
		timeout := unix.NsecToTimeval(wait.Nanoseconds())
		if err := w.socket.SetReceiveTimeout(&timeout); err != nil {
			return fmt.Errorf("subscription to the host's addresses: %w", err)
		}
		messages, _, err := w.socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EAGAIN): // nothing came within the timeout
		case err != nil:
			if !w.recover(ctx, err) {
				return nil
			}
			changed = time.Time{}
			continue
		}
		for _, m := range messages {
			if w.apply(m) && changed.IsZero() {
				changed = time.Now()
			}
		}
		if quiet := err != nil; !changed.IsZero() && (quiet || time.Since(changed) > settleMost) {
			w.publish()
			changed = time.Time{}
		}
	}
}

// recover lists everything again after changes were lost. It reports whether it did, and not whether ctx ended before.
func (w *Watcher) recover(ctx context.Context, cause error) bool {
	w.log.Warn("changes of the host's addresses were lost; they are listed again", "error", cause)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(resyncPause):
		}
		err := w.resync()
		if err == nil {
			return true
		}
		w.log.Error("the host's addresses are not known: a Gateway may not be announced, and probes of strict pods may fail", "error", err)
	}
}

// resync lists links and addresses and writes the table.
func (w *Watcher) resync() error {
	links, err := listLinks()
	if err != nil {
		return err
	}
	have, err := listAddresses()
	if err != nil {
		return err
	}
	w.links, w.addresses = links, map[string]linkAddress{}
	for _, a := range have {
		if a.relevant() {
			w.addresses[a.key()] = a
		}
	}
	w.publish()
	return nil
}

// apply takes one change in. It reports whether the table changes by it.
func (w *Watcher) apply(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		link, neighbours, ok := parseLink(m.Data)
		if !ok {
			return false
		}
		if m.Header.Type == unix.RTM_DELLINK {
			used := w.used(link)
			delete(w.links, link)
			maps.DeleteFunc(w.addresses, func(_ string, a linkAddress) bool { return a.link == link })
			return used
		}
		old := w.links[link]
		w.links[link] = neighbours
		return old != neighbours && w.used(link)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, ok := parseAddress(m.Data)
		if !ok || !a.relevant() {
			return false
		}
		old, had := w.addresses[a.key()]
		if m.Header.Type == unix.RTM_DELADDR {
			delete(w.addresses, a.key())
			return had
		}
		w.addresses[a.key()] = a
		return !had || old != a
	}
	return false
}

// used reports whether a link has an address in the table.
func (w *Watcher) used(link int) bool {
	for _, a := range w.addresses {
		if a.link == link {
			return true
		}
	}
	return false
}

// publish writes what differs into the table.
func (w *Watcher) publish() {
	tx := w.st.Write(w.st.HostAddresses)
	defer tx.Commit()
	for _, a := range w.addresses {
		w.st.HostAddresses.Put(tx, w.row(a))
	}
	for old := range w.st.HostAddresses.All(tx.Snapshot()) {
		if _, ok := w.addresses[old.Key()]; !ok {
			w.st.HostAddresses.Delete(tx, old.Key())
		}
	}
}

func (w *Watcher) row(a linkAddress) *model.HostAddress {
	return &model.HostAddress{Link: a.link, Prefix: a.prefix, Neighbours: w.links[a.link], Announced: a.ours}
}
