package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// holdable is a session's transport that counts what is sent, and that loses nothing while it is held up, as TCP does.
type holdable struct {
	plain
	sent atomic.Int64
	held atomic.Pointer[chan struct{}]
}

func (w *holdable) Write(b []byte) (int, error) {
	if until := w.held.Load(); until != nil {
		<-*until
	}
	w.sent.Add(int64(len(b)))
	return w.plain.Write(b)
}

// outage holds up what is sent from now on until the function that it gives is called, or the test ends.
func (w *holdable) outage(t *testing.T) (over func()) {
	until := make(chan struct{})
	w.held.Store(&until)
	over = sync.OnceFunc(func() {
		w.held.Store(nil)
		close(until)
	})
	t.Cleanup(over)
	return over
}

// wired makes the two sessions of a connection in a bubble, each with a stream that says nothing unless unused is true, and looks
// after them every second.
func wired(t *testing.T, unused bool) (sessions [2]*session, wires [2]*holdable) {
	a, b := net.Pipe()
	for i, c := range []net.Conn{a, b} {
		wires[i] = &holdable{plain: plain{c}}
		s := newSession(wires[i], netip.Addr{})
		if !unused {
			st := newStream(s, 1, nil)
			st.tentative = true // it has no application yet that is to be reset
			s.streams[1] = st
		}
		sessions[i] = s
		go func() { _ = s.run() }()
		go func() {
			for {
				select {
				case <-s.done:
					return
				case <-time.After(time.Second):
					s.check(time.Now())
				}
			}
		}()
	}
	t.Cleanup(func() {
		for _, s := range sessions {
			s.end(errClosed)
		}
	})
	return sessions, wires
}

func ended(s *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// TestIdleSession: a session on which nothing is said lives on, and pings cost little.
func TestIdleSession(t *testing.T) {
	for _, unused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			sessions, wires := wired(t, unused)
			time.Sleep(time.Hour)
			for i, s := range sessions {
				if err := ended(s); err != nil {
					t.Errorf("session %d, without streams: %v: %v", i, unused, err)
				}
				// Each ping is answered, and counts for both ends.
				if n := wires[i].sent.Load(); n == 0 || n > headerSize*2*int64(time.Hour/pingAfter) {
					t.Errorf("session %d, without streams: %v: %d bytes in an hour", i, unused, n)
				}
			}
		})
	}
}

// TestOutage: a session lives through an outage that TCP survives. Meanwhile it gets no new stream.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions, wires := wired(t, false)
		r := route{sessions: []*used{{session: sessions[0], until: time.Now().Add(time.Hour)}}}
		if best, _ := r.best(); best == nil {
			t.Fatal("the session gets no streams")
		}
		over := [2]func(){wires[0].outage(t), wires[1].outage(t)}
		time.Sleep(15 * time.Minute)
		for i, s := range sessions {
			if err := ended(s); err != nil {
				t.Fatalf("session %d: %v", i, err)
			}
		}
		if best, _ := r.best(); best != nil {
			t.Error("a stream is opened to a peer that has been silent for long")
		}
		over[0]()
		over[1]()
		synctest.Wait()
		for i, s := range sessions {
			if err := ended(s); err != nil {
				t.Errorf("session %d, after the outage: %v", i, err)
			}
		}
		if best, _ := r.best(); best == nil {
			t.Error("the session gets no streams after the outage")
		}
	})
}

// TestDeadPeer: a session ends whose peer is silent for longer, and one without streams earlier.
func TestDeadPeer(t *testing.T) {
	for _, tc := range []struct {
		unused bool
		lives  time.Duration
		err    error
	}{{false, deadAfter, errSilent}, {true, doubtAfter, errClosed}} {
		synctest.Test(t, func(t *testing.T) {
			sessions, wires := wired(t, tc.unused)
			wires[1].outage(t)
			time.Sleep(tc.lives - time.Second)
			if err := ended(sessions[0]); err != nil {
				t.Errorf("after %s: %v", tc.lives-time.Second, err)
			}
			time.Sleep(3 * time.Second)
			if err := ended(sessions[0]); !errors.Is(err, tc.err) {
				t.Errorf("after %s: %v, want %v", tc.lives+2*time.Second, err, tc.err)
			}
		})
	}
}

// TestClockStep: a step of the wall clock is no silence.
func TestClockStep(t *testing.T) {
	dialled, _ := pair(t, func(*session, uint32, opening) {})
	for _, step := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		dialled.check(stepped(t, time.Now(), step))
		if err := ended(dialled); err != nil {
			t.Errorf("a step of %s: %v", step, err)
		}
		if !dialled.pinged.IsZero() {
			t.Errorf("a step of %s: the peer is asked whether it lives", step)
		}
	}
}

// stepped is now as time.Now gives it when somebody has set the wall clock, which no function of package time can make.
func stepped(t *testing.T, now time.Time, by time.Duration) time.Time {
	t.Helper()
	out := now
	// time.Time has the wall clock's seconds since 1885 in bits 30 to 62 of its first word.
	*(*uint64)(unsafe.Pointer(&out)) += uint64(by/time.Second) << 30
	if out.Sub(now) != 0 || out.Unix()-now.Unix() != int64(by/time.Second) {
		t.Fatalf("%s is not %s with another wall clock", out, now)
	}
	return out
}
