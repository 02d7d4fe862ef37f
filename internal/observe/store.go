package observe

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// Event is a flow, or word that flows were lost.
type Event struct {
	Flow *Flow `json:"flow,omitempty"`
	// Lost counts flows that happened before the next one and that the reader does not get.
	Lost uint64 `json:"lost,omitempty"`
	// Late are those of Lost that the store had and that this reader was too slow for.
	Late uint64 `json:"-"`
}

// Store keeps the last flows in a ring. It is safe for concurrent use; Add never waits for readers.
type Store struct {
	mu       sync.Mutex
	capacity uint64
	blocks   [][]entry // the ring, in pieces that are made when they are needed
	next     uint64    // Seq of the next flow
	count    atomic.Uint64
	lost     uint64 // flows that never came in; Follow tells each reader the difference since its last look
	// unmarked are those of lost that came after the last flow: the next one carries them.
	unmarked uint64
	// grown is closed and replaced when something is added and someone waits.
	grown chan struct{}
	waits int
}

// entry is a flow, with the number of those that were lost between it and the one before.
type entry struct {
	flow Flow
	lost uint64
}

// blockSize is how many flows memory is taken for at a time: a node on which little happens needs little.
const blockSize = 512

// NewStore makes a store for capacity flows, at least 1.
func NewStore(capacity int) *Store {
	n := max(capacity, 1)
	return &Store{capacity: uint64(n), blocks: make([][]entry, (n+blockSize-1)/blockSize), next: 1, grown: make(chan struct{})}
}

// at returns where the flow with a Seq is kept.
func (s *Store) at(seq uint64) *entry {
	i := seq % s.capacity
	b := &s.blocks[i/blockSize]
	if *b == nil {
		*b = make([]entry, min(blockSize, s.capacity-i/blockSize*blockSize))
	}
	return &(*b)[i%blockSize]
}

// Add keeps a flow and drops the oldest if the store is full. It sets Seq.
func (s *Store) Add(f Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Seq = s.next
	*s.at(s.next) = entry{f, s.unmarked}
	s.unmarked = 0
	s.next++
	s.count.Add(1)
	s.wake()
}

// AddLost counts flows that were lost before they came here: a full ring buffer in the kernel, a full queue.
func (s *Store) AddLost(n uint64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += n
	s.unmarked += n
	s.wake()
}

func (s *Store) wake() {
	if s.waits > 0 {
		close(s.grown)
		s.grown, s.waits = make(chan struct{}), 0
	}
}

// Count returns how many flows came in since the start. It takes no lock.
func (s *Store) Count() uint64 { return s.count.Load() }

// Capacity returns how many flows are kept at most.
func (s *Store) Capacity() uint64 { return s.capacity }

// Matching returns how many of the flows that are kept the filter takes.
func (s *Store) Matching(filter Filter) int {
	n := 0
	for e := range s.newestFirst() {
		if filter.Match(&e.flow) {
			n++
		}
	}
	return n
}

// List returns the last flows that the filter takes, oldest first, at most limit (0: all that are kept). Where flows were
// lost between them, an event says how many: of all, for what was lost cannot be filtered.
func (s *Store) List(filter Filter, limit int) []Event {
	return slices.Collect(s.History(filter, limit))
}

// found is a flow that a filter took.
type found struct{ seq, lost uint64 }

// History gives what List returns, one by one. The filter is applied at once, and what it took is read as it is asked for:
// a reader that takes its time holds no copy of the flows. What is gone until then counts as lost.
func (s *Store) History(filter Filter, limit int) iter.Seq[Event] {
	s.mu.Lock()
	after := s.unmarked
	s.mu.Unlock()
	var all []found // newest first
	lost := after
	for e := range s.newestFirst() {
		if filter.Match(&e.flow) {
			if len(all) == 0 {
				after = lost
			} else {
				all[len(all)-1].lost = lost
			}
			all, lost = append(all, found{seq: e.flow.Seq}), 0
		}
		lost += e.lost
		if limit > 0 && len(all) == limit {
			break
		}
	}
	if len(all) == 0 {
		after = lost
	} else {
		all[len(all)-1].lost = lost
	}
	return func(yield func(Event) bool) {
		var lost uint64
		for _, f := range slices.Backward(all) {
			lost += f.lost
			e, kept := s.read(f.seq)
			if !kept {
				lost++
				continue
			}
			if lost > 0 && !yield(Event{Lost: lost}) || !yield(Event{Flow: &e.flow}) {
				return
			}
			lost = 0
		}
		if lost += after; lost > 0 {
			yield(Event{Lost: lost})
		}
	}
}

// read returns a flow, if it is kept.
func (s *Store) read(seq uint64) (entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq < s.oldest() {
		return entry{}, false
	}
	return *s.at(seq), true
}

// chunk is how many flows are copied under one lock.
const chunk = 256

// newestFirst gives the flows that are kept, each as a copy that is good until the next.
func (s *Store) newestFirst() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		s.mu.Lock()
		end := s.next
		s.mu.Unlock()
		var copied []entry
		for {
			s.mu.Lock()
			begin := max(s.oldest(), max(end, chunk)-chunk)
			copied = copied[:0]
			for seq := begin; seq < end; seq++ {
				copied = append(copied, *s.at(seq))
			}
			s.mu.Unlock()
			if len(copied) == 0 {
				return
			}
			end = begin
			for i := len(copied) - 1; i >= 0; i-- {
				if !yield(&copied[i]) {
					return
				}
			}
		}
	}
}

func (s *Store) oldest() uint64 {
	if s.next > s.capacity {
		return s.next - s.capacity
	}
	return 1
}

func (s *Store) copyFrom(seq uint64) []entry {
	out := make([]entry, 0, s.next-seq)
	for ; seq < s.next; seq++ {
		out = append(out, *s.at(seq))
	}
	return out
}

// Follow gives the flows that come in from the call on and that the filter takes, until the context ends or the
// caller stops. A reader that is slower than the ring is long is told how many flows it missed (of all, for what is
// gone cannot be filtered), and so is every reader when flows were lost before they came in.
func (s *Store) Follow(ctx context.Context, filter Filter) iter.Seq[Event] {
	s.mu.Lock()
	cursor, lost := s.next, s.lost
	s.mu.Unlock()
	return func(yield func(Event) bool) {
		for ctx.Err() == nil {
			flows, missed, late, wait := s.advance(&cursor, &lost)
			if missed > 0 && !yield(Event{Lost: missed, Late: late}) {
				return
			}
			for i := range flows {
				if f := &flows[i].flow; filter.Match(f) && !yield(Event{Flow: f}) {
					return
				}
			}
			if wait == nil {
				continue
			}
			select {
			case <-wait:
			case <-ctx.Done():
			}
		}
	}
}

// advance takes what came since the cursor. With nothing there it gives a channel to wait on.
func (s *Store) advance(cursor, lost *uint64) (flows []entry, missed, late uint64, wait <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	missed = s.lost - *lost
	*lost = s.lost
	if oldest := s.oldest(); *cursor < oldest {
		late = oldest - *cursor
		missed += late
		*cursor = oldest
	}
	flows = s.copyFrom(*cursor)
	*cursor = s.next
	if len(flows) == 0 && missed == 0 {
		s.waits++
		wait = s.grown
	}
	return flows, missed, late, wait
}
