package hostaddr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/state"
)

const (
	// checkEvery is the time after which the routes are compared with the kernel's again: somebody may flush them.
	checkEvery = 50 * time.Second
	// retryAfter is the time from a failure to the next attempt.
	retryAfter = 5 * time.Second
	// loopbackIndex is the index of lo in every network namespace (LOOPBACK_IFINDEX).
	loopbackIndex = 1
)

// routeProtocol marks our routes (ip route calls it proto 119). Numbers above 4 are for user space to choose
// (linux/rtnetlink.h); this one no routing daemon uses.
const routeProtocol = 119

// LocalRoutes makes the Gateways' addresses local to the host: a local route on lo for each that no interface has. Envoy
// binds them with freebind, and who routes the address to this host reaches the Gateway. It is for a node that is alone:
// the host answers for them on all its links. Where there are several, Announcer takes its place.
type LocalRoutes struct{ log *slog.Logger }

// NewLocalRoutes returns a LocalRoutes that makes no route before Run.
func NewLocalRoutes(log *slog.Logger) *LocalRoutes {
	if log == nil {
		log = slog.Default()
	}
	return &LocalRoutes{log: log}
}

// Run keeps the host's local routes as st.Gateways says, until ctx ends. Routes stay when it returns, so that traffic
// goes on; Remove removes them.
func (a *LocalRoutes) Run(ctx context.Context, st *state.State) error {
	feed := st.Feed(st.Gateways, st.HostAddresses)
	defer feed.Close()
	synced := st.Synced()
	var last string
	var again <-chan time.Time
	due := true
	for {
		// Asking the kernel for its routes costs more than most changes do, and most change no Gateway.
		keys, snap := feed.Take()
		if due || changed(keys, st.Gateways.AnyKey(), st.HostAddresses.AnyKey()) {
			wanted, err := a.reconcile(snap, st, synced == nil)
			if text := fmt.Sprint(err); err != nil && text != last {
				a.log.Error("failed to bring the host's local routes in line with the Gateways' addresses", "error", err)
				last = text
			}
			again = nil
			switch {
			case err != nil:
				again = time.After(retryAfter)
			case wanted > 0:
				again = time.After(checkEvery)
			}
		}
		due = true
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			due = false
		case <-again:
		case <-synced:
			synced = nil
			if err := removeLinkAddresses(); err != nil { // of a time when this node was one of several
				a.log.Error("addresses that were announced on the host's links are left there", "error", err)
			}
		}
	}
}

// changed reports whether keys hold one of the wanted.
func changed(keys map[state.Key]struct{}, wanted ...state.Key) bool {
	return slices.ContainsFunc(wanted, func(k state.Key) bool { _, ok := keys[k]; return ok })
}

// reconcile adds the routes that are missing and, with prune, removes the others. It returns how many there are to be.
func (a *LocalRoutes) reconcile(snap *state.Snapshot, st *state.State, prune bool) (int, error) {
	have, err := localRoutes()
	if err != nil {
		return 0, err
	}
	own := map[netip.Addr]bool{}
	for h := range st.HostAddresses.All(snap) {
		own[h.Prefix.Addr()] = own[h.Prefix.Addr()] || !h.Announced
	}
	var errs []error
	want := map[netip.Addr]bool{}
	for g := range st.Gateways.All(snap) {
		for _, addr := range g.Addresses {
			addr = addr.Unmap()
			if !addr.IsValid() || addr.IsUnspecified() || addr.IsLoopback() || own[addr] {
				continue
			}
			want[addr] = true
			if _, ok := have[addr]; ok {
				continue
			}
			if err := netlink.RouteReplace(addressRoute(addr)); err != nil {
				errs = append(errs, fmt.Errorf("gateway %s: make %s local: %w", g.Key(), addr, err))
			}
		}
	}
	for addr := range have {
		if prune && !want[addr] {
			errs = append(errs, removeRoute(addr))
		}
	}
	return len(want), errors.Join(errs...)
}

func addressRoute(a netip.Addr) *netlink.Route {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	return &netlink.Route{
		LinkIndex: loopbackIndex, Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: routeProtocol, Family: family,
	}
}

func removeRoute(a netip.Addr) error {
	if err := netlink.RouteDel(addressRoute(a)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the local route of %s: %w", a, err)
	}
	return nil
}

// localRoutes are ours.
func localRoutes() (map[netip.Addr]struct{}, error) {
	out := map[netip.Addr]struct{}{}
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol}
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list local routes: %w", err)
	}
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			out[a.Unmap()] = struct{}{}
		}
	}
	return out, nil
}

func removeAddresses() error {
	have, err := localRoutes()
	if err != nil {
		return err
	}
	var errs []error
	for a := range have {
		errs = append(errs, removeRoute(a))
	}
	return errors.Join(errs...)
}
