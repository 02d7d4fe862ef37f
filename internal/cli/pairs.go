package cli

import (
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
)

// pairs makes one line of the two flows that both ends of a connection report. Flows wait for the other end's. When flows are followed
// they wait for pairWait at most, and lines have the order in which flows came. Else they wait until flush, and lines are by time.
type pairs struct {
	print  func(node string, e observe.Event) error
	follow bool
	last   int // flows that flush prints at most, the last ones; 0 is all

	mu    sync.Mutex // guards what follows, and print
	queue []*awaited
	by    map[observe.PairKey][]*awaited // of the queue, those that have no pair yet
	timer *time.Timer
	err   error // of print, once it has failed
}

// awaited is an event that waits to be printed.
type awaited struct {
	seen
	until time.Time // it is printed without its pair then; zero if it needs none
	gone  bool      // it is part of its pair's line
}

// pairWait is longer than what Envoy and weft tunnel keep reports back.
const pairWait = 2 * time.Second

// maxAwaited bounds the events that wait while flows are followed.
const maxAwaited = 4096

func newPairs(follow bool, last int, print func(string, observe.Event) error) *pairs {
	return &pairs{print: print, follow: follow, last: last, by: map[observe.PairKey][]*awaited{}}
}

// paired prints the flows that get hands over, those of both ends of a connection as one line. If they are not followed, it prints the
// last ones at most, of which get should hand over twice as many.
func paired(follow bool, last int, print func(string, observe.Event) error, get func(take func(string, observe.Event) error) error) error {
	p := newPairs(follow, last, print)
	err := get(p.take)
	if failed := p.flush(); err == nil {
		err = failed
	}
	return err
}

// take takes an event. An error is that of print, of this or an earlier event.
func (p *pairs) take(node string, e observe.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := &awaited{seen: seen{node, e}}
	if e.Flow != nil {
		if key, ok := e.Flow.Key(); ok && !p.join(key, a) {
			a.until = time.Now().Add(pairWait)
			p.by[key] = append(p.by[key], a)
		}
	}
	if !a.gone {
		p.queue = append(p.queue, a)
	}
	if p.follow {
		p.printReady(time.Now())
	}
	return p.err
}

// join looks for the pair of a flow among those that wait. The line of both is where the earlier one is in the queue, with the
// node of the source.
func (p *pairs) join(key observe.PairKey, a *awaited) bool {
	for i, b := range p.by[key] {
		if !b.Flow.PairOf(a.Flow) {
			continue
		}
		if a.Flow.SeenAt == observe.AtSource {
			b.node = a.node
		}
		b.Flow, b.until, a.gone = observe.Joined(b.Flow, a.Flow), time.Time{}, true
		p.forget(key, i)
		return true
	}
	return false
}

func (p *pairs) forget(key observe.PairKey, i int) {
	rest := append(p.by[key][:i:i], p.by[key][i+1:]...)
	if p.by[key] = rest; len(rest) == 0 {
		delete(p.by, key)
	}
}

// printReady prints what need not wait, up to the first event that must, for which it sets the timer.
func (p *pairs) printReady(now time.Time) {
	for len(p.queue) > 0 {
		a := p.queue[0]
		if a.until.After(now) && len(p.queue) <= maxAwaited {
			p.wake(a.until.Sub(now))
			return
		}
		p.printFirst()
	}
}

func (p *pairs) wake(in time.Duration) {
	if p.timer == nil {
		p.timer = time.AfterFunc(in, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.printReady(time.Now())
		})
		return
	}
	p.timer.Reset(in)
}

func (p *pairs) printFirst() {
	a := p.queue[0]
	p.queue[0] = nil
	p.queue = p.queue[1:]
	if !a.until.IsZero() {
		if key, ok := a.Flow.Key(); ok {
			for i, b := range p.by[key] {
				if b == a {
					p.forget(key, i)
					break
				}
			}
		}
	}
	if p.err == nil {
		p.err = p.print(a.node, a.Event)
	}
}

// flush prints all that waits.
func (p *pairs) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	if !p.follow {
		p.queue = lastByTime(p.queue, p.last)
	}
	for len(p.queue) > 0 {
		p.printFirst()
	}
	return p.err
}

// lastByTime returns events by time, of the flows at most the last (0: all). What was lost stays before the flow that it came before.
func lastByTime(queue []*awaited, last int) []*awaited {
	var groups [][]*awaited // each ends with its only flow
	var rest []*awaited
	for _, a := range queue {
		if rest = append(rest, a); a.Flow != nil {
			groups, rest = append(groups, rest), nil
		}
	}
	at := func(group []*awaited) time.Time { return group[len(group)-1].Flow.Time }
	slices.SortStableFunc(groups, func(a, b []*awaited) int { return at(a).Compare(at(b)) })
	if last > 0 {
		groups = groups[max(0, len(groups)-last):]
	}
	return append(slices.Concat(groups...), rest...)
}
