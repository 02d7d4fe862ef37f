package servicemap

import (
	"context"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/traffic"
)

const (
	// Window is about the time that rates are of: between 3/4 of it and a step more, once somebody has looked for so long.
	Window = 30 * time.Second
	// step lies between the moments that are kept, so that at most Window/step+2 of them are.
	step = Window / 3
	// fresh is how long a moment is as good as a new one: it bounds how often Envoy is asked.
	fresh = time.Second
)

// sample is what a node has counted up to a moment.
type sample struct {
	at     time.Time
	totals map[traffic.Labels]traffic.Totals
}

// Recorder keeps a few moments of a node's counts while somebody looks, and forgets them afterwards.
type Recorder struct {
	take func(ctx context.Context) map[traffic.Labels]traffic.Totals
	now  func() time.Time

	mu     sync.Mutex
	kept   []*sample // the oldest first
	last   *sample
	forget *time.Timer
}

// NewRecorder makes a Recorder. take returns what was counted so far.
func NewRecorder(take func(ctx context.Context) map[traffic.Labels]traffic.Totals) *Recorder {
	return &Recorder{take: take, now: time.Now}
}

// Part returns what was counted since the oldest moment that is kept.
func (r *Recorder) Part(ctx context.Context) *Part {
	r.mu.Lock()
	fromMemory := r.last != nil && r.now().Sub(r.last.at) < fresh
	r.mu.Unlock()
	var s *sample
	if !fromMemory {
		s = &sample{totals: r.take(ctx)} // no lock over what asks another process
		s.at = r.now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s != nil {
		r.keep(s)
	}
	if r.last == nil { // it was forgotten in between
		return &Part{}
	}
	return newPart(r.kept[0], r.last)
}

// keep adds a moment, and drops those that are too old.
func (r *Recorder) keep(s *sample) {
	if r.last != nil && s.at.Before(r.last.at) {
		return // another reader was faster
	}
	if n := len(r.kept); n > 0 && s.at.Sub(r.kept[n-1].at) > Window {
		r.kept = nil // nobody has looked for long
	}
	if n := len(r.kept); n == 0 || s.at.Sub(r.kept[n-1].at) >= step {
		r.kept = append(r.kept, s)
	}
	for len(r.kept) > 1 && s.at.Sub(r.kept[0].at) > Window {
		r.kept = r.kept[1:]
	}
	r.last = s
	if r.forget == nil {
		r.forget = time.AfterFunc(2*Window, r.clear)
	}
	r.forget.Reset(2 * Window)
}

func (r *Recorder) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept, r.last = nil, nil
}
