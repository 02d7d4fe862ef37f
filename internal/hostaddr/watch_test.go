package hostaddr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

// inNamespace runs f in a network namespace of its own, which ends with it.
func inNamespace(t testing.TB, f func() error) {
	t.Helper()
	testenv.Root(t)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// rows gives the table as text, by key.
func rows(st *state.State) map[string]string {
	out := map[string]string{}
	for h := range st.HostAddresses.All(st.Snapshot()) {
		out[h.Prefix.String()] = fmt.Sprintf("neighbours=%v announced=%v", h.Neighbours, h.Announced)
	}
	return out
}

// bridge makes a link that is up, with an address.
func bridge(name, address string) (netlink.Link, error) {
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	return l, errors.Join(netlink.LinkAdd(l), netlink.AddrAdd(l, addr), netlink.LinkSetUp(l))
}

const (
	withNeighbours    = "neighbours=true announced=false"
	withoutNeighbours = "neighbours=false announced=false"
	ofAGateway        = "neighbours=true announced=true"
)

func TestWatch(t *testing.T) {
	inNamespace(t, func() error {
		before, err := bridge("before", "192.0.2.1/24")
		if err != nil {
			return err
		}
		st := state.New(state.NewDB())
		w, err := Watch(st, nil)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		var link netlink.Link
		for _, step := range []struct {
			what string
			do   func() error
			want map[string]string
		}{
			{"what was there before", func() error { return nil }, map[string]string{"192.0.2.1/24": withNeighbours}},
			{"a link with an address", func() (err error) {
				link, err = bridge("after", "2001:db8::1/64")
				return err
			}, map[string]string{"192.0.2.1/24": withNeighbours, "2001:db8::1/64": withNeighbours}},
			{"an address of a Gateway", func() error {
				return addAddress(netip.MustParseAddr("192.0.2.200"), link.Attrs().Index)
			}, map[string]string{"192.0.2.1/24": withNeighbours, "2001:db8::1/64": withNeighbours, "192.0.2.200/32": ofAGateway}},
			{"an address that goes", func() error {
				return removeAddress(netip.MustParseAddr("192.0.2.200"), link.Attrs().Index)
			}, map[string]string{"192.0.2.1/24": withNeighbours, "2001:db8::1/64": withNeighbours}},
			{"a link without ARP", func() error { return netlink.LinkSetARPOff(before) },
				map[string]string{"192.0.2.1/24": withoutNeighbours, "2001:db8::1/64": withNeighbours}},
			{"a link that goes", func() error { return netlink.LinkDel(link) }, map[string]string{"192.0.2.1/24": withoutNeighbours}},
		} {
			if err := step.do(); err != nil {
				return fmt.Errorf("%s: %w", step.what, err)
			}
			eventually(t, step.what, func() bool { return maps.Equal(rows(st), step.want) })
		}
		return nil
	})
}

// Changes that the kernel could not deliver, because nobody read the ones before, are not missed.
func TestWatchAfterLostChanges(t *testing.T) {
	inNamespace(t, func() error {
		l, err := bridge("link", "192.0.2.1/24")
		if err != nil {
			return err
		}
		st := state.New(state.NewDB())
		var log strings.Builder
		w, err := Watch(st, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			return err
		}
		if err := w.socket.SetReceiveBufferSize(1, true); err != nil { // the kernel raises it to its minimum
			return err
		}
		want := map[string]string{"192.0.2.1/24": withNeighbours}
		for i := range 50 {
			a := netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)})
			if err := addAddress(a, l.Attrs().Index); err != nil {
				return err
			}
			want[netip.PrefixFrom(a, 32).String()] = ofAGateway
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		go func() {
			for ctx.Err() == nil && !maps.Equal(rows(st), want) {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		err = w.Run(ctx)
		if got := rows(st); !maps.Equal(got, want) {
			t.Errorf("%d addresses, want %d", len(got), len(want))
		}
		if !strings.Contains(log.String(), "were lost") {
			t.Errorf("the kernel dropped nothing: %s", log.String())
		}
		return err
	})
}
