package state

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
)

// Feed collects the keys that commits change until they are taken.
type Feed struct {
	db     *DB
	tables []TableID // none stands for all

	mu   sync.Mutex
	keys map[Key]struct{}
	// shared is true while keys is also that of a commit, and of other feeds.
	shared bool
	ready  chan struct{}
}

// Feed starts to collect. With tables, it collects the keys of commits that change one of them: a reader of few tables is
// not woken by all others. A commit is taken whole, so keys of other tables may be among them. Without tables it collects
// all keys. Close it when done.
func (db *DB) Feed(tables ...AnyTable) *Feed {
	f := &Feed{db: db, keys: map[Key]struct{}{}, ready: make(chan struct{}, 1)}
	for _, t := range tables {
		f.tables = append(f.tables, t.ID())
	}
	db.mu.Lock()
	db.feeds[f] = struct{}{}
	db.mu.Unlock()
	return f
}

// Ready has a value when there is something to take.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Take gives the keys changed since the last call, and a snapshot that holds at least these changes. The keys must not be
// changed.
func (f *Feed) Take() (map[Key]struct{}, *Snapshot) {
	f.mu.Lock()
	keys := f.keys
	f.keys, f.shared = map[Key]struct{}{}, false
	f.mu.Unlock()
	return keys, f.db.Snapshot()
}

// Close ends the feed.
func (f *Feed) Close() {
	f.db.mu.Lock()
	delete(f.db.feeds, f)
	f.db.mu.Unlock()
}

// follows reports whether the feed collects the keys of a commit that changed tables.
func (f *Feed) follows(tables []TableID) bool {
	return len(f.tables) == 0 || slices.ContainsFunc(tables, func(t TableID) bool { return slices.Contains(f.tables, t) })
}

// add takes in the keys of a commit, which nobody changes any more. Where a feed has no others it keeps the map itself: a
// first commit may have tens of thousands.
func (f *Feed) add(keys map[Key]struct{}) {
	f.mu.Lock()
	switch {
	case len(f.keys) == 0:
		f.keys, f.shared = keys, true
	case f.shared:
		f.keys, f.shared = maps.Clone(f.keys), false
		fallthrough
	default:
		maps.Copy(f.keys, keys)
	}
	f.mu.Unlock()
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// Deps remembers what each reader R read. It is not safe for concurrent use.
//
// A node has a hundred thousand reads, so readers are numbers here and keys are hashes. Two keys with the same hash make a
// reader run once more than it must, which changes nothing.
type Deps[R comparable] struct {
	seed    maphash.Seed
	numbers map[R]uint32
	all     []reader[R] // by number; 0 is nobody
	free    []uint32
	readers map[uint64]readerSet
}

type reader[R comparable] struct {
	r     R
	reads []uint64 // hashes of keys
}

// NewDeps makes an empty record.
func NewDeps[R comparable]() *Deps[R] {
	return &Deps[R]{seed: maphash.MakeSeed(), numbers: map[R]uint32{}, all: make([]reader[R], 1), readers: map[uint64]readerSet{}}
}

// Set replaces what reader r read.
func (d *Deps[R]) Set(r R, reads map[Key]struct{}) {
	d.Remove(r)
	hashes := make([]uint64, 0, len(reads))
	for k := range reads {
		hashes = append(hashes, maphash.Comparable(d.seed, k))
	}
	n := d.number(r)
	d.all[n] = reader[R]{r, hashes}
	for _, h := range hashes {
		d.readers[h] = d.readers[h].add(n)
	}
}

// Wait waits until a commit of a feed changes what a reader has read. It returns false when ctx ends.
func (d *Deps[R]) Wait(ctx context.Context, f *Feed) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-f.Ready():
			if keys, _ := f.Take(); len(d.Dirty(keys)) > 0 {
				return true
			}
		}
	}
}

// number returns a number for a new reader.
func (d *Deps[R]) number(r R) uint32 {
	n := uint32(len(d.all))
	if last := len(d.free) - 1; last >= 0 {
		n, d.free = d.free[last], d.free[:last]
	} else {
		d.all = append(d.all, reader[R]{})
	}
	d.numbers[r] = n
	return n
}

// Remove forgets a reader.
func (d *Deps[R]) Remove(r R) {
	n, ok := d.numbers[r]
	if !ok {
		return
	}
	for _, h := range d.all[n].reads {
		if s := d.readers[h].remove(n); s.empty() {
			delete(d.readers, h)
		} else {
			d.readers[h] = s
		}
	}
	d.all[n] = reader[R]{}
	d.free = append(d.free, n)
	delete(d.numbers, r)
}

// Dirty returns the readers that read any of the keys.
func (d *Deps[R]) Dirty(keys map[Key]struct{}) map[R]struct{} {
	out := map[R]struct{}{}
	for k := range keys {
		s := d.readers[maphash.Comparable(d.seed, k)]
		for _, n := range s.few {
			if n != 0 {
				out[d.all[n].r] = struct{}{}
			}
		}
		for n := range s.many {
			out[d.all[n].r] = struct{}{}
		}
	}
	return out
}

// readerSet holds the numbers of a key's readers. Most keys have one, two or three, and then it needs no memory of its own.
type readerSet struct {
	few  [fewReaders]uint32 // 0 is free
	many map[uint32]struct{}
}

const fewReaders = 4

func (s readerSet) add(n uint32) readerSet {
	if slices.Contains(s.few[:], n) {
		return s
	}
	if i := slices.Index(s.few[:], 0); i >= 0 && len(s.many) == 0 {
		s.few[i] = n
		return s
	}
	if s.many == nil {
		s.many = map[uint32]struct{}{}
	}
	s.many[n] = struct{}{}
	return s
}

func (s readerSet) remove(n uint32) readerSet {
	if i := slices.Index(s.few[:], n); i >= 0 {
		s.few[i] = 0
	}
	delete(s.many, n)
	return s
}

func (s readerSet) empty() bool { return s.few == [fewReaders]uint32{} && len(s.many) == 0 }
