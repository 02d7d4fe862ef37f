package tunnel

const (
	// firstWindow is how many bytes an end may send before the other end's application has read any. A window grows while
	// the application reads as fast as bytes come.
	firstWindow = 64 << 10
	maxWindow   = 2 << 20
)

// awaitCredit waits until the stream may send, and gives how much; 0 if it has ended.
func (st *stream) awaitCredit() int {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for !st.dead && st.credit == 0 {
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
	if !st.stalled && st.window < maxWindow && s.windows+st.window <= sessionWindows &&
		take(&s.memory.windows, st.window, s.memory.maxWindows) {
		s.windows += st.window
		grant += st.window
		st.window *= 2
	}
	st.taken, st.stalled = 0, false
	st.left += grant
	s.put(st.id, kindWindow, grant)
	return true
}
