package datapath

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weft-mesh/weft/internal/testenv"
)

// Who takes a pod's network down takes its routes with it, before or after Weft leaves the namespace.
func TestUnrouteTwice(t *testing.T) {
	l := testenv.Lab(t)
	p := testenv.Pod(t, l, "a")
	// In this order: loopback stays down.
	for _, tt := range []struct {
		name   string
		route  bool
		damage func() error
	}{
		{"nothing was done", false, func() error { return nil }},
		{"undone already", true, unrouteMarked},
		{"loopback is down", true, func() error {
			lo, err := netlink.LinkByIndex(loopbackIndex)
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(lo)
		}},
	} {
		err := p.Do(func() error {
			if tt.route {
				if err := routeMarked(true); err != nil {
					return err
				}
			}
			return tt.damage()
		})
		if err != nil {
			t.Fatal(tt.name, err)
		}
		if err := p.Do(unrouteMarked); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	checkNoRules(t, p)
}
