package datapath

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weft-mesh/weft/internal/testenv"
)

// Who takes a pod's network down takes its routes with it, before or after Weft leaves the namespace.
func TestUnrouteTwice(t *testing.T) {
	l := testenv.Lab(t, "wunr", "10.83.7.0/24")
	p := testenv.Pod(t, l, "a")
	for name, damage := range map[string]func() error{
		"nothing was done": func() error { return nil },
		"undone already":   unrouteMarked,
		"loopback is down": func() error {
			lo, err := netlink.LinkByIndex(loopbackIndex)
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(lo)
		},
	} {
		err := p.Do(func() error {
			if name != "nothing was done" {
				if err := routeMarked(true); err != nil {
					return err
				}
			}
			return damage()
		})
		if err != nil {
			t.Fatal(name, err)
		}
		if err := p.Do(unrouteMarked); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	checkNoRules(t, p)
}
