package datapath

import "time"

const (
	retryFirst = 20 * time.Millisecond
	retryLast  = 5 * time.Second
)

// schedule says which objects are looked at again without a change of the model: those that failed, with growing
// pauses, and those that wait until Envoy has accepted them.
type schedule struct {
	failed  map[object]*failure
	waiting map[object]*wait
}

type failure struct {
	err   error
	pause time.Duration
	again time.Time
}

// wait is a change that is not programmed yet. It is over at until, which Envoy's answer brings forward, and at limit at
// the latest.
type wait struct {
	limit, until time.Time
	accepted     bool
}

func newSchedule() schedule {
	return schedule{failed: map[object]*failure{}, waiting: map[object]*wait{}}
}

// fail notes an error and returns the one before, nil if there was none.
func (s *schedule) fail(o object, err error, now time.Time) (before error) {
	f := s.failed[o]
	if f == nil {
		f = &failure{pause: retryFirst}
		s.failed[o] = f
	} else {
		before, f.pause = f.err, min(2*f.pause, retryLast)
	}
	f.err, f.again = err, now.Add(f.pause)
	return before
}

// succeed forgets an error and returns it, nil if there was none.
func (s *schedule) succeed(o object) (before error) {
	if f := s.failed[o]; f != nil {
		before = f.err
	}
	delete(s.failed, o)
	return before
}

// over reports whether an object has waited long enough: until Envoy accepted it, and settle longer, or for as long as
// patience lasts.
func (s *schedule) over(o object, accepted bool, patience, settle time.Duration, now time.Time) bool {
	w := s.waiting[o]
	if w == nil {
		w = &wait{limit: now.Add(patience), until: now.Add(patience)}
		s.waiting[o] = w
	}
	switch {
	case accepted && !w.accepted:
		w.until = now.Add(settle)
	case !accepted:
		w.until = w.limit
	}
	w.accepted = accepted
	return !now.Before(w.until) || !now.Before(w.limit)
}

// next returns when the first object is due.
func (s *schedule) next() (at time.Time, ok bool) {
	first := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	for _, f := range s.failed {
		first(f.again)
	}
	for _, w := range s.waiting {
		first(w.until)
		first(w.limit)
	}
	return at, ok
}

// due lists the objects whose time has come.
func (s *schedule) due(now time.Time) map[object]struct{} {
	out := map[object]struct{}{}
	for o, f := range s.failed {
		if !now.Before(f.again) {
			out[o] = struct{}{}
		}
	}
	for o, w := range s.waiting {
		if !now.Before(w.until) || !now.Before(w.limit) {
			out[o] = struct{}{}
		}
	}
	return out
}
