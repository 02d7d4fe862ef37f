package tunnel

import "time"

const (
	// firstWindow is how many bytes an end may send before the other end's application has read any. A window grows while
	// the application reads as fast as bytes come.
	firstWindow = 64 << 10
	maxWindow   = 2 << 20
	// leastCredit is less than half of any window, so what is missing to it is granted in any case.
	leastCredit = 16 << 10
)

// awaitCredit waits until the stream may send, and gives how much; 0 if it has ended. It does not use up the last bytes of a
// window: the peer grants more before, and small frames are dear.
func (st *stream) awaitCredit() int {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for !st.dead && st.credit < max(leastCredit, min(readSize, st.most/2)) {
		st.moved.Wait()
	}
	if st.dead {
		return 0
	}
	return min(st.credit, readSize)
}

// took notes that the application has taken bytes, and grants them again when they are half of the window. It reports
// whether a frame was put. The lock is held.
func (st *stream) took(n int) bool {
	s := st.session
	if st.taken += n; st.taken < st.window/2 || st.gotFin {
		return false
	}
	grant := st.taken
	now := time.Now()
	// The window grows where the sender waits for it and not for the application. It waits if little of the window is left,
	// or if half of the window comes within two round trips. A larger one would only keep bytes until they have left the cache.
	waits := st.left <= st.window/4 || now.Sub(st.granted) < 2*time.Duration(s.roundTrip.Load())
	if waits && st.held <= st.window/4 && st.window < maxWindow && s.windows+st.window <= sessionWindows &&
		s.memory.windows.take(st.window) {
		s.windows += st.window
		grant += st.window
		st.window *= 2
	}
	st.taken, st.granted = 0, now
	st.left += grant
	s.put(st.id, kindWindow, grant)
	return true
}
