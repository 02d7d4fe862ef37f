package tunnel

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A session may end while its route is looked after. The race detector sees whether both use the list.
func TestSessionsEndWhileTheirRouteIsTended(t *testing.T) {
	near, _ := tcpPair(t)
	now := time.Now()
	var r route
	for range 200 {
		s := newSession(plain{near}, netip.Addr{})
		s.heard(now)
		r.sessions = append(r.sessions, &used{session: s, until: now.Add(time.Hour)})
	}
	all, removed := slices.Clone(r.sessions), make(chan struct{})
	go func() {
		defer close(removed)
		for _, u := range all {
			r.remove(u)
		}
	}()
	for unused := false; !unused; {
		unused = r.tend(now)
	}
	<-removed
}
