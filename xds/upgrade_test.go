package xds

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestIgnoredUpgrades(t *testing.T) {
	for _, s := range []string{"websocket", "WebSocket", "SPDY/3.1", "tcp"} {
		if ignored(s) {
			t.Errorf("%q is ignored", s)
		}
	}
	for _, s := range []string{"", "TLS/1.2", "h2c", "websockets", "websocke", "t", "tcp/2", "SPDY/3x1", "spdy/3", "s\nx"} {
		if !ignored(s) {
			t.Errorf("%q is not ignored", s)
		}
	}
}

func ignored(s string) bool {
	return regexp.MustCompile("^(?:" + ignoredUpgrades()[0].GetSafeRegex().GetRegex() + ")$").MatchString(s)
}

func FuzzIgnoredUpgrades(f *testing.F) {
	for _, u := range upgrades {
		f.Add(u)
		f.Add(u + "x")
		f.Add(u[1:])
	}
	f.Fuzz(func(t *testing.T, s string) {
		carried := slices.ContainsFunc(upgrades, func(u string) bool { return strings.EqualFold(u, s) })
		if ignored(s) == carried {
			t.Errorf("%q: ignored %v", s, !carried)
		}
	})
}
