package tunnel

import "errors"

// Applications see connections accepted in the order in which they made them. So the streams of a route are opened one
// after the other, in the order in which the connections came: at once where there is a session, else by a goroutine that
// waits for one.

// errWait says that there is nothing yet that a stream can be opened on.
var errWait = errors.New("there is no session yet")

// take opens a stream for a connection, or queues it behind others. It does not wait. It reports false if the route is
// closed: the pod has another one, or is gone.
func (r *route) take(a *arrival) bool {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return false
	}
	r.queue = append(r.queue, a)
	if r.serving {
		r.mu.Unlock()
		return true
	}
	r.serving = true
	r.mu.Unlock()
	if !r.serve(false) {
		go r.serve(true)
	}
	return true
}

// serve opens streams for what is queued, and reports whether it did so to the end: if it must not wait, some may be left.
func (r *route) serve(wait bool) bool {
	for {
		r.mu.Lock()
		if len(r.queue) == 0 {
			r.serving = false
			r.mu.Unlock()
			return true
		}
		a := r.queue[0]
		r.mu.Unlock()
		st, err := r.open(a, wait)
		if errors.Is(err, errWait) {
			return false
		}
		r.mu.Lock()
		done := r.queue[:1]
		if err != nil && wait {
			done = r.queue // they waited for the same
		}
		r.queue = r.queue[len(done):]
		if len(r.queue) == 0 {
			r.queue = nil
		}
		r.mu.Unlock()
		if err != nil {
			for _, a := range done {
				r.pod.fail(a, err)
			}
			continue
		}
		if st != nil {
			go r.pod.carry(a, st)
		}
	}
}

// open opens a stream for a connection, nil if that has gone to another endpoint. It fails with errWait if it would have to wait
// and must not.
func (r *route) open(a *arrival, wait bool) (*stream, error) {
	if a.isOver() {
		return nil, nil
	}
	id, leaves, err := r.pod.node.peerAt(r.to, wait)
	if err != nil {
		return nil, err
	}
	if a.peer != "" && a.peer != id {
		return nil, errOtherPeer
	}
	if !a.expect(id) {
		return nil, nil
	}
	for range 3 { // a session may end at the same moment
		var s *session
		if s, err = r.session(id, wait); err != nil {
			return nil, err
		}
		var st *stream
		if st, err = a.open(s); err == nil {
			if st != nil && (leaves || r.pod.reserves.Load()) {
				r.pod.reserve(st)
			}
			return st, nil
		}
	}
	return nil, err
}
