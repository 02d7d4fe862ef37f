package traffic

import "time"

// Bounds of the sets of labels that are kept, of connections, of requests and of datagrams each. A set of connections is at most 22
// series and maxReasons more, a set of datagrams 38 series. A set of requests is at most 18 series of its durations and MaxOutcomes+1 of its count.
const (
	MaxSets             = 4000
	MaxSetsPerNamespace = 500
	MaxOutcomes         = 32
	// IdleTime is how long a set is kept in which nothing is counted.
	IdleTime = time.Hour
)

// sets keeps a counter of type T for each set of labels, within the bounds.
type sets[T any] struct {
	kept  map[Labels]*set[T]
	of    map[string]int // sets by namespace
	limit struct{ all, namespace int }
}

type set[T any] struct {
	counts T
	used   time.Time
}

func newSets[T any](all, namespace int) *sets[T] {
	s := &sets[T]{kept: map[Labels]*set[T]{}, of: map[string]int{}}
	s.limit.all, s.limit.namespace = all, namespace
	return s
}

// at returns the counter of a set, or that of the overflow if the set is new and there is no room for it.
func (s *sets[T]) at(l Labels, now time.Time) *T {
	if c, ok := s.kept[l]; ok {
		c.used = now
		return &c.counts
	}
	if ns := l.namespace(); ns != Overflow {
		if len(s.kept) >= s.limit.all || s.of[ns] >= s.limit.namespace {
			return s.at(l.overflow(), now)
		}
		s.of[ns]++
	}
	c := &set[T]{used: now}
	s.kept[l] = c
	return &c.counts
}

// expire forgets the sets that were not used since a time.
func (s *sets[T]) expire(since time.Time) {
	for l, c := range s.kept {
		if c.used.After(since) {
			continue
		}
		delete(s.kept, l)
		if ns := l.namespace(); ns != Overflow {
			if s.of[ns]--; s.of[ns] <= 0 {
				delete(s.of, ns)
			}
		}
	}
}
