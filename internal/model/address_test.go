package model

import (
	"net/netip"
	"testing"
)

func TestIsRoutable(t *testing.T) {
	for _, good := range []string{"10.0.0.1", "203.0.113.7", "240.0.0.1", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1"} {
		if !IsRoutable(netip.MustParseAddr(good)) {
			t.Errorf("%s is not routable", good)
		}
	}
	for _, bad := range []string{
		"0.0.0.0", "127.0.0.1", "127.8.9.10", "169.254.169.254", "224.0.0.1", "239.1.1.1", "255.255.255.255",
		"::", "::1", "fe80::1", "ff02::1", "fd00::1%eth0",
		"::ffff:127.0.0.1", "::ffff:169.254.1.1", "::ffff:0.0.0.0", "::ffff:224.0.0.1", "::ffff:255.255.255.255",
	} {
		if IsRoutable(netip.MustParseAddr(bad)) {
			t.Errorf("%s is routable", bad)
		}
	}
	if IsRoutable(netip.Addr{}) {
		t.Error("the zero address is routable")
	}
}
